"use strict";
// A click on a column's header sorts the table by it; a second click reverses the order. Empty cells stay last.
for (const table of document.querySelectorAll("table")) {
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
}
