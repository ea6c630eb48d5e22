"use strict";
// A click on a column's header sorts the table by it; a second click reverses the order. Empty cells stay last. The text
// field above a table keeps the rows that have all of its words.
for (const table of document.querySelectorAll("table.data")) {
  const body = table.tBodies[0];
  const heads = Array.from(table.tHead.rows[0].cells);
  const value = (row, at) => {
    const cell = row.cells[at];
    return cell.dataset.sort === undefined ? cell.textContent : cell.dataset.sort;
  };
  const sort = (at, descending) => {
    const numeric = heads[at].classList.contains("number");
    const compare = (a, b) =>
      numeric ? Number(a) - Number(b) : a.localeCompare(b, "en", { numeric: true, sensitivity: "base" });
    const keyed = Array.from(body.rows, (row) => ({ row, key: value(row, at) }));
    keyed.sort((a, b) => {
      if (a.key === "" || b.key === "") return (a.key === "") - (b.key === "");
      return descending ? compare(b.key, a.key) : compare(a.key, b.key);
    });
    body.append(...keyed.map(({ row }) => row));
  };
  heads.forEach((head, at) => {
    head.querySelector("button").addEventListener("click", () => {
      const descending = head.getAttribute("aria-sort") === "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      sort(at, descending);
    });
  });
  const field = table.closest("section").querySelector("input[type=search]");
  if (field) {
    const count = field.closest("p").querySelector("output");
    field.addEventListener("input", () => {
      const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const row of body.rows) {
        const text = Array.from(row.cells, (cell) => cell.textContent).join("\n").toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
        shown += row.hidden ? 0 : 1;
      }
      count.textContent = words.length ? `${shown.toLocaleString("en")} of ${body.rows.length.toLocaleString("en")} rows` : "";
    });
  }
}
// A link to a table that is folded opens it.
const unfold = () => {
  const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const details = target && target.querySelector("details.table");
  if (details) details.open = true;
};
addEventListener("hashchange", unfold);
unfold();
