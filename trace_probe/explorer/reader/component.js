// The reader inside a page of Streamlit.

const frames = new WeakMap();

export default function (component) {
  const { parentElement, data, setStateValue, setTriggerValue } = component;
  const root = parentElement.querySelector(".frame");
  if (!root) return undefined;
  if (!frames.has(root)) frames.set(root, new Frame(root));
  const frame = frames.get(root);
  frame.show(data.sides, {
    emit: (index) => setStateValue("sentence", index),
    step: (by) => setTriggerValue("step", by),
    onThreshold: data.movable ? (value) => setTriggerValue("threshold", value) : null,
  });
  return () => { frame.stop(); frames.delete(root); };
}
