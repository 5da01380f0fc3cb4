"use strict";
// Shows, orders and counts the questions of an evaluation. Without it, all of them stand in their order.
const byId = (id) => document.getElementById(id);
const list = byId("questions"), form = byId("browse");
const rows = [...list.children].map((element) => ({
  element,
  text: element.textContent.toLowerCase(),
  state: element.dataset.state,
  refused: element.dataset.refused === "1",
  dense: Number(element.dataset.dense),
  right: element.dataset.right.split(" ").map(Number),
  f1: element.dataset.f1.split(" ").map(Number),
}));
const kinds = {
  all: () => true,
  lost: (row) => row.state === "lost",
  misread: (row, s) => row.state === "found" && row.right[s] === 0,
  right: (row, s) => row.right[s] === 1,
  won: (row, s) => row.right[s] === 1 && row.right[s - 1] === 0,
  gone: (row, s) => row.right[s] === 0 && row.right[s - 1] === 1,
  refused: (row) => row.refused,
  unanswerable: (row) => row.state === "unanswerable",
};
let placed = "file";  // moving thousands of elements takes a second: only where the order changes
const orders = { file: () => 0, f1: (row, s) => row.f1[s], dense: (row) => row.dense };
function show() {
  const system = Number(byId("system").value), word = byId("word").value.toLowerCase();
  const kind = kinds[byId("kind").value], order = byId("order").value;
  const value = orders[order], wanted = order === "f1" ? order + system : order;
  let shown = 0;
  for (const row of rows) {
    const hit = kind(row, system) && row.text.includes(word);
    row.element.hidden = !hit;
    shown += hit;
  }
  if (wanted !== placed) {
    list.replaceChildren(...rows.toSorted((a, b) => value(a, system) - value(b, system)).map((row) => row.element));
    placed = wanted;
  }
  byId("shown").textContent = `${shown} of ${rows.length} questions`;
}
form.hidden = false;
form.addEventListener("input", show);
form.addEventListener("submit", (event) => event.preventDefault());
show();
