"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
const narrow = matchMedia("(max-width: 40rem)");

function draw(element, spec) {
  const options = { renderer: "svg", actions: false, tooltip: { theme: dark.matches ? "dark" : "light" },
    config: { background: null, view: { stroke: null }, legend: { columns: narrow.matches ? 1 : 2 } } };
  vegaEmbed(element, spec, options).catch(console.error);
}

// The charts of one kind differ in their rows and height alone.
function drawAnalysis(details) {
  for (const element of details.querySelectorAll(".chart")) {
    const kind = element.dataset.kind;
    draw(element, { ...data.kinds[kind], ...data.analyzed[details.dataset.analyzed][kind] });
  }
}

const analyses = [...document.querySelectorAll("details[data-analyzed]")];
function drawAll() {
  for (const [name, spec] of Object.entries(data.charts)) draw(document.getElementById(name), spec);
  analyses.filter((details) => details.open).forEach(drawAnalysis);
}
drawAll();
for (const query of [dark, narrow]) query.addEventListener("change", drawAll);
// What is closed has no width to draw to.
for (const details of analyses) details.addEventListener("toggle", () => details.open && drawAnalysis(details));

const compare = (a, b) => {
  const [x, y] = [Number(a), Number(b)];
  return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b, undefined, { numeric: true }) : x - y;
};
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = table.querySelectorAll("thead th");
  heads.forEach((head, column) => {
    head.firstElementChild.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...table.tBodies[0].rows];
      const value = (row) => row.cells[column].dataset.value;
      // What has no value stays below, whichever way.
      rows.sort((a, b) => (value(a) === "") - (value(b) === "") || (down ? -1 : 1) * compare(value(a), value(b)));
      table.tBodies[0].append(...rows);
    });
  });
}
