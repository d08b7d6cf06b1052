"use strict";
// Tables: a click on a header sorts by its column, a second click reverses the order; missing values stay last.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = head.querySelector("button");
    if (!button) return;
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") === "descending" ||
        (head.getAttribute("aria-sort") === "none" && head.dataset.first === "ascending");
      heads.forEach((other) => other.hasAttribute("aria-sort") && other.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const body = table.tBodies[0];
      const value = (row) => row.cells[column].dataset.value ?? "";
      const rows = [...body.rows].sort((a, b) => {
        const [x, y] = [value(a), value(b)];
        if (x === "" || y === "") return (x === "") - (y === "");
        const order = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
        return up ? order : -order;
      });
      body.append(...rows);
    });
  });
}

// Pictures: a click enlarges.
const dialog = document.querySelector("dialog");
for (const button of document.querySelectorAll(".cell button")) {
  button.addEventListener("click", () => {
    const picture = dialog.querySelector("img");
    picture.src = button.querySelector("img").src;
    picture.alt = button.querySelector("img").alt;
    dialog.querySelector("strong").textContent = picture.alt;
    dialog.showModal();
  });
}
if (dialog) dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
