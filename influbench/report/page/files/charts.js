"use strict";
// The two charts of a section, drawn when they come into sight and again when the colours change.
(() => {
  const config = { displaylogo: false, responsive: true, displayModeBar: false };
  const escaped = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;");

  function layout(more) {
    const axis = { gridcolor: page.colour("line"), linecolor: page.colour("line"), zeroline: false, automargin: true };
    return {
      paper_bgcolor: page.colour("paper"), plot_bgcolor: page.colour("paper"),
      font: { color: page.colour("ink"), family: "system-ui, sans-serif", size: 12 },
      margin: { l: 50, r: 15, t: 15, b: 45 }, showlegend: false, hovermode: "closest",
      ...more, xaxis: { ...axis, ...more.xaxis }, yaxis: { ...axis, ...more.yaxis },
    };
  }

  function trace(points, names, front) {
    const bars = points.map((p) => (p.high === null ? 0 : p.high - p.value));
    const below = points.map((p) => (p.low === null ? 0 : p.value - p.low));
    const colour = page.colour(front ? "mark" : "quiet");
    return {
      type: "scatter", mode: front ? "lines+markers+text" : "markers+text",
      x: points.map((p) => p.cost), y: points.map((p) => p.value),
      text: points.map((p) => (names.has(p) ? escaped(p.label) : "")), cliponaxis: false,
      textposition: points.map((p) => names.get(p) || "top center"),
      customdata: points.map((p) => escaped(p.label)),
      error_y: { type: "data", symmetric: false, array: bars, arrayminus: below, color: colour, thickness: 1, width: 0 },
      line: { shape: "hv", color: colour, width: 1 },
      marker: { color: front ? colour : page.colour("paper"), size: 9, line: { color: colour, width: 1.5 } },
      hovertemplate: "%{customdata}<br>%{x:.3g} s per candidate<br>%{y:.3g}<extra></extra>",
    };
  }

  function costQuality(node, chart) {
    const narrow = node.clientWidth < 560;
    const spread = (values, share) => {
      const [low, high] = [Math.min(...values), Math.max(...values)];
      const more = (high - low || 1) * share;
      return [low - more, high + more];
    };
    const across = spread(chart.points.map((p) => Math.log10(p.cost)), 0.08);
    const up = spread(chart.points.flatMap((p) => [p.value, p.low, p.high].filter((v) => v !== null)), 0.08);
    const [width, height] = [node.clientWidth - 80, node.clientHeight - 60];
    const names = page.labels(chart.points, (p) => [
      (Math.log10(p.cost) - across[0]) / (across[1] - across[0]) * width,
      (up[1] - p.value) / (up[1] - up[0]) * height,
    ], width);
    const parts = [false, true].map((front) => trace(chart.points.filter((p) => p.front === front), names, front));
    Plotly.react(node, parts, layout({
      xaxis: { type: "log", range: across, title: { text: "seconds per candidate" }, nticks: narrow ? 4 : 9 },
      yaxis: { range: up, title: { text: narrow ? "" : escaped(chart.title) } },
    }), config);
  }

  function agreement(node, chart) {
    const names = chart.names.map(escaped);
    const few = names.length <= 12 && node.clientWidth > 560;
    Plotly.react(node, [{
      type: "heatmap", x: names, y: names, z: chart.values, zmin: -1, zmax: 1, colorscale: [[0, "#b35806"], [0.5, page.colour("raised")], [1, "#0b63b0"]], xgap: 1, ygap: 1,
      texttemplate: few ? "%{z:.2f}" : undefined, colorbar: { thickness: 10, outlinewidth: 0 },
      hovertemplate: "%{y}<br>%{x}<br>%{z:.3f}<extra></extra>",
    }], layout({
      xaxis: { tickangle: -45, type: "category", dtick: 1, showticklabels: node.clientWidth / names.length > 20 },
      yaxis: { autorange: "reversed", type: "category", dtick: 1 },
    }), config);
  }

  // The library is most of the page, and running it takes seconds on a slow machine: not before
  // there is a chart to draw, and not before the rest of the page can be used.
  function plotly() {
    const script = page.element("script", "", document.getElementById("plotly").textContent);
    document.body.append(script);
  }

  const drawn = [];
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      watcher.unobserve(entry.target);
      const chart = drawn.find((one) => one.node === entry.target);
      chart.seen = true;
      setTimeout(() => {
        if (!window.Plotly) plotly();
        chart.draw();
      }, 50);
    }
  }, { rootMargin: "300px" });

  function place(section, where, select, charts, draw) {
    const node = section.querySelector(where);
    if (!node) return;
    const choice = section.querySelector(select);
    const chart = { node, draw: () => draw(node, charts[Number(choice.value)]), seen: false };
    choice.addEventListener("change", () => { if (window.Plotly) chart.draw(); });
    drawn.push(chart);
    watcher.observe(node);
  }

  for (const section of document.querySelectorAll("section[data-section]")) {
    const charts = page.data.charts[Number(section.dataset.section)];
    place(section, ".cost-quality", "select.metric", charts.costQuality, costQuality);
    place(section, ".agreement", "select.matrix", charts.agreement, agreement);
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    for (const chart of drawn) if (chart.seen && window.Plotly) chart.draw();
  });
})();
