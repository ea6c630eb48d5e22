"use strict";
// The numbers of a cell of the heat map on hover, focus and tap; arrow keys go from cell to cell.
for (const heat of document.querySelectorAll("table.heat")) {
  const output = document.getElementById("heat-detail");
  const rows = Array.from(heat.tBodies[0].rows, (row) => Array.from(row.querySelectorAll("td")));
  const tell = (cell) => {
    if (cell) output.textContent = cell.dataset.detail;
  };
  const enter = (cell) => {
    heat.querySelector("td[tabindex='0']").tabIndex = -1;
    cell.tabIndex = 0;
    cell.focus();
  };
  heat.addEventListener("pointerover", (event) => tell(event.target.closest("td")));
  heat.addEventListener("focusin", (event) => tell(event.target.closest("td")));
  heat.addEventListener("click", (event) => {
    const cell = event.target.closest("td");
    if (cell) enter(cell);
  });
  heat.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    const y = rows.findIndex((row) => row.includes(event.target));
    if (!step || y < 0) return;
    const x = rows[y].indexOf(event.target);
    const next = rows[y + step[0]] && rows[y + step[0]][x + step[1]];
    event.preventDefault();
    if (next) enter(next);
  });
}
