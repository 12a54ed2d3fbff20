// The chart of a detection: what was measured, how it scored, and the anomalies marked.
"use strict";

const TIME_ZONE = /(Z|[+-]\d\d:?\d\d)$/i;

function seconds(text) {
  const iso = String(text).replace(" ", "T");
  return Date.parse(TIME_ZONE.test(iso) ? iso : `${iso}Z`) / 1000;
}

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

function options(title, width, height, isTime, series) {
  const axis = { stroke: colour("muted"), grid: { stroke: colour("line"), width: 1 }, ticks: { show: false }, font: "12px system-ui" };
  return {
    width,
    height,
    cursor: { sync: { key: "detection" }, drag: { x: true, y: false } },
    scales: { x: { time: isTime } },
    tzDate: (at) => uPlot.tzDate(new Date(at * 1000), "Etc/UTC"),
    axes: [{ ...axis }, { ...axis, size: 64, label: title, labelSize: 18, labelFont: "12px system-ui" }],
    series: [{ label: isTime ? "time (UTC)" : "row", value: isTime ? "{YYYY}-{MM}-{DD} {HH}:{mm}" : undefined }, ...series],
  };
}

const dots = (label, size, fill) => ({
  label,
  paths: () => null,
  stroke: fill,
  points: { show: true, size, fill, stroke: fill, width: 0 },
});

function drawDetection(box, detail) {
  const { plot, threshold } = detail;
  const isSeries = plot.kind === "series";
  const isTime = isSeries && typeof plot.x[0] === "string";
  const x = isTime ? plot.x.map(seconds) : plot.x.map(Number);
  const marked = (values) => values.map((value, i) => (plot.anomaly[i] ? value : null));
  const limit = x.map(() => threshold.value);
  const line = (label, stroke, width = 1.25) => ({ label, stroke, width, points: { show: false }, spanGaps: false });
  const draw = () => {
    box.replaceChildren();
    const width = box.clientWidth;
    if (isSeries) {
      new uPlot(
        options(plot.y_label, width, 280, isTime, [line(plot.y_label, colour("series")), dots("anomaly", 6.5, colour("hot"))]),
        [x, plot.y, marked(plot.y)],
        box,
      );
    }
    const scored = isSeries ? line("score", colour("muted")) : dots("score", 3.5, colour("series"));
    new uPlot(
      options("score", width, isSeries ? 170 : 320, isTime, [
        scored,
        { ...line("threshold", colour("warn")), dash: [5, 4] },
        dots("anomaly", isSeries ? 5 : 6.5, colour("hot")),
      ]),
      [x, plot.score, limit, marked(plot.score)],
      box,
    );
  };
  draw();
  let width = box.clientWidth;
  new ResizeObserver(() => {
    if (box.isConnected && Math.abs(box.clientWidth - width) > 1) {
      width = box.clientWidth;
      draw();
    }
  }).observe(box);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => box.isConnected && draw());
  box.dataset.drawn = plot.anomaly.filter(Boolean).length;
}

async function showCharts(root = document) {
  const box = root.querySelector("[data-chart]:not([data-drawn])");
  if (!box) return;
  box.dataset.drawn = "";
  const response = await fetch(box.dataset.chart);
  if (response.ok) drawDetection(box, (await response.json()).detail);
  else box.textContent = "The chart could not be loaded.";
}
