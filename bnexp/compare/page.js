// A click on a column's head sorts by it, a second one the other way round; cells without a value stay last.
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.parentElement;
    const column = [...head.parentElement.children].indexOf(head);
    const rising = head.getAttribute("aria-sort") !== "ascending";
    const sign = rising ? 1 : -1;
    const key = (row) => row.cells[column].dataset.sort;
    const isNumber = (text) => Number.isFinite(Number(text));
    const compare = (a, b) => {
      if (isNumber(a) && isNumber(b)) return sign * (Number(a) - Number(b));
      if (isNumber(a) !== isNumber(b)) return sign * (isNumber(a) ? -1 : 1); // null, say, behind all numbers
      return sign * a.localeCompare(b, "en", { numeric: true });
    };
    const body = head.closest("table").tBodies[0];
    const rows = [...body.rows].sort((a, b) => {
      const [left, right] = [key(a), key(b)];
      return left === "" || right === "" ? (left === "") - (right === "") : compare(left, right);
    });
    body.append(...rows);
    for (const other of head.parentElement.children) {
      other.setAttribute("aria-sort", "none");
    }
    head.setAttribute("aria-sort", rising ? "ascending" : "descending");
  });
}
