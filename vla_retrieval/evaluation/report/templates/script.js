// Makes the heads of tables that may be sorted into buttons. Without it, everything is there to be
// read, in the order in which it was written.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  const key = (row, column) => {
    const cell = row.cells[column];
    const number = cell.querySelector("data");
    // A number that does not exist comes last, whichever way is up.
    if (number) return number.value === "" ? null : Number(number.value);
    return cell.textContent.trim();
  };
  const order = (a, b) =>
    typeof a === "string" ? a.localeCompare(b) : a < b ? -1 : a > b ? 1 : 0;
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const rows = [...body.rows].map((row) => [key(row, column), row]);
      rows.sort(([a], [b]) => {
        if (a === null || b === null) return (a === null) - (b === null);
        return up ? order(a, b) : order(b, a);
      });
      body.append(...rows.map(([, row]) => row));
    });
  });
}
