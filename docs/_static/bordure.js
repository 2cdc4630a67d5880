document.addEventListener("DOMContentLoaded", () => {
  for (const table of document.querySelectorAll(".bd-article table.table")) {
    // Narrow screens show each row of a table as a block: every cell gets the name of its column.
    const heads = [...table.querySelectorAll("thead th")];
    const names = heads.map((cell) => cell.textContent.trim());
    const rows = [...table.querySelectorAll("tbody tr")];
    for (const row of rows) {
      [...row.cells].forEach((cell, column) => {
        cell.dataset.column = names[column] ?? "";
        cell.classList.toggle("empty", !cell.textContent.trim() && !cell.querySelector("img"));
      });
    }
    // Columns in which each cell is one number
    heads.forEach((head, column) => {
      const cells = rows.map((row) => row.cells[column]).filter((cell) => cell && !cell.matches(".empty"));
      const numbers = cells.every((cell) => /^[-+]?[\d.,\s]*\d\s*%?$/.test(cell.textContent.trim()));
      if (column > 0 && cells.length > 1 && numbers) {
        [head, ...cells].forEach((cell) => cell.classList.add("number"));
      }
    });
  }
  // Short code is not broken into lines, as `--configfile` after its hyphens.
  for (const code of document.querySelectorAll(".bd-article :not(pre) > code")) {
    code.classList.toggle("short", code.textContent.length < 30);
  }
});
