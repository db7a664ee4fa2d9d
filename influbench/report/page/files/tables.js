"use strict";
// A press on a column's title sorts its table; a second press turns the order. Rows without a
// number come last either way.
(() => {
  const key = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.value === undefined ? null : Number(cell.dataset.value);
  };

  function sort(table, column, heading) {
    const up = heading.getAttribute("aria-sort") === "descending";
    const rows = [...table.tBodies[0].rows];
    const numeric = rows.some((row) => key(row, column) !== null);
    const words = (row) => row.cells[column].textContent;
    rows.sort((a, b) => {
      if (!numeric) return (up ? -1 : 1) * words(a).localeCompare(words(b), "en");
      const [x, y] = [key(a, column), key(b, column)];
      if (x === null || y === null) return (x === null) - (y === null);
      return up ? x - y : y - x;
    });
    for (const other of heading.parentElement.cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", up ? "ascending" : "descending");
    table.tBodies[0].append(...rows);
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    [...table.tHead.rows[0].cells].forEach((heading, column) => {
      heading.querySelector("button").addEventListener("click", () => sort(table, column, heading));
    });
  }
})();
