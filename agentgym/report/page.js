"use strict";
// One episode at a time, and the values under the pointer.
const choice = document.getElementById("choice");
if (choice) {
  const articles = [...document.querySelectorAll("article.episode")];
  const show = (index) => {
    choice.selectedIndex = (index + articles.length) % articles.length;
    articles.forEach((article, i) => { article.hidden = i !== choice.selectedIndex; });
  };
  choice.addEventListener("change", () => show(choice.selectedIndex));
  document.getElementById("previous").addEventListener("click", () => show(choice.selectedIndex - 1));
  document.getElementById("next").addEventListener("click", () => show(choice.selectedIndex + 1));
}
for (const chart of document.querySelectorAll("figure.chart")) {
  const svg = chart.querySelector("svg"), cursor = chart.querySelector(".cursor"), told = chart.querySelector(".told");
  const low = Number(chart.dataset.low), high = Number(chart.dataset.high);
  const points = JSON.parse(chart.dataset.points);
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width * 300 - 6) / 288 * (high - low) + low;
    const nearest = points.reduce((a, b) => (Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a))[0];
    const at = high > low ? 6 + (nearest - low) / (high - low) * 288 : 150;
    cursor.setAttribute("x1", at); cursor.setAttribute("x2", at); cursor.style.visibility = "visible";
    told.textContent = `update ${nearest}: ` + points.filter((p) => p[0] === nearest).map((p) => p[1]).join(" · ");
  });
  svg.addEventListener("pointerleave", () => { cursor.style.visibility = "hidden"; told.textContent = ""; });
}
