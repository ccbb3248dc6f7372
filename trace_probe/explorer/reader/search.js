export default function ({ data }) {
  const field = () => document.querySelector(`input[aria-label="${data.label}"]`);
  const enter = () => { field().focus(); field().select(); };
  const whenThere = (tries) => {
    if (field()) enter();
    else if (tries) setTimeout(whenThere, 100, tries - 1);
  };
  const lead = (event) => {
    const typing = event.composedPath()[0].closest?.("input, textarea, [contenteditable=true]");
    if (event.key !== "/" || typing || event.ctrlKey || event.metaKey || event.altKey) return;
    const page = document.querySelector(`a[href$="/${data.page}"]`);
    if (!field() && !page) return;
    event.preventDefault();
    if (!field()) page.click();
    whenThere(100);
  };
  document.addEventListener("keydown", lead);
  return () => document.removeEventListener("keydown", lead);
}
