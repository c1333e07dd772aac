"use strict";
// Tables of the leaderboard: a click on a column's head sorts, the form above filters. Without scripts all rows are shown.
(() => {
  const NUMBERS = new Set(["asr1", "ca1", "pa", "floor", "worst", "loss", "seeds", "seconds", "reason", "auroc", "tprAtFpr1"]);
  const EPSILON = 1e-9;

  const sort = (table, key, down) => {
    const body = table.tBodies[0], rows = [...body.rows];
    const text = row => `${row.dataset[key] ?? ""} ${key === "attack" || key === "defense" ? row.dataset[`${key}Entry`] : ""}`.trim();
    rows.sort((a, b) => {
      const [left, right] = [a, b].map(row => NUMBERS.has(key) ? row.dataset[key] ?? "" : text(row));
      if (left === "" || right === "") return (left === "") - (right === "");  // empty ones last, up and down
      const order = NUMBERS.has(key) ? left - right : left.localeCompare(right, "en", {numeric: true});
      return down ? -order : order;
    });
    body.append(...rows);
  };

  const sortable = table => {
    const heads = [...table.tHead.rows[0].cells];
    for (const head of heads) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        heads.forEach(other => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        sort(table, head.dataset.key, down);
      });
    }
  };

  const filterable = (form, table) => {
    const rows = [...table.tBodies[0].rows], count = form.querySelector("output");
    const field = name => form.elements.namedItem(name);
    const number = name => field(name).value === "" ? NaN : Number(field(name).value);
    const kept = row => {
      for (const select of form.querySelectorAll("select")) {
        if (select.value !== "" && row.dataset[select.name] !== select.value) return false;
      }
      const budget = number("budget"), seeds = number("seeds");
      if (!isNaN(budget) && (row.dataset.loss === "" || Number(row.dataset.loss) > budget + EPSILON)) return false;
      if (!isNaN(seeds) && Number(row.dataset.seeds) < seeds) return false;
      if (field("reliable")?.checked && row.dataset.reason !== "") return false;
      return row.textContent.toLowerCase().includes(field("text").value.trim().toLowerCase());
    };
    const apply = () => {
      rows.forEach(row => { row.hidden = !kept(row); });
      count.textContent = `${rows.filter(row => !row.hidden).length} of ${rows.length} cells`;
      table.dispatchEvent(new Event("filtered", {bubbles: true}));
    };
    form.addEventListener("input", apply);
    form.addEventListener("reset", () => setTimeout(apply));
    form.addEventListener("submit", event => event.preventDefault());
    form.hidden = false;
    apply();
  };

  for (const board of document.querySelectorAll(".board")) {
    const table = board.querySelector("table"), form = board.querySelector("form");
    sortable(table);
    if (form) filterable(form, table);
  }
})();
