// The reader in a file of its own: the trace lies in the page, the sentence in the address.

const given = JSON.parse(document.getElementById("trace").textContent);
const asked = /^#s=(\d{1,8})$/.exec(location.hash);
const single = given.sides.length === 1 && asked && Number(asked[1]) < given.sides[0].sentences.length;
if (single) given.sides[0].focus = Number(asked[1]);

// A file opened from disk, or a frame without an origin, may be denied a history.
function remember(index) {
  try {
    history.replaceState(null, "", `#s=${index}`);
  } catch (error) {
    if (error.name !== "SecurityError") throw error;
  }
}

const frame = new Frame(document.querySelector(".frame"));
frame.show(given.sides, { emit: remember });
