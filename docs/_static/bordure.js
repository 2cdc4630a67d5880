// Narrow screens show each row of a table as a block: every cell gets the name of its column.
document.addEventListener("DOMContentLoaded", () => {
  for (const table of document.querySelectorAll(".bd-article table.table")) {
    const names = [...table.querySelectorAll("thead th")].map((cell) => cell.textContent.trim());
    for (const row of table.querySelectorAll("tbody tr")) {
      [...row.cells].forEach((cell, column) => {
        cell.dataset.column = names[column] ?? "";
        cell.classList.toggle("empty", !cell.textContent.trim() && !cell.querySelector("img"));
      });
    }
  }
});
