"use strict";
const DATA = JSON.parse(document.getElementById("data").textContent);
const NARROW = 640; // pixels: legends go below their chart
const LINE = 20; // pixels: a line of a legend

function element(tag, name, text) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  if (text !== undefined) made.textContent = text;
  return made;
}

// --- tables: a click on a heading sorts; numbers by value, what is no number last ---

function sortable(cell) {
  const text = cell.textContent.trim();
  const number = parseFloat(text.replace(/,/g, ""));
  return { text, number };
}

function sort(table, column, head) {
  const rows = [...table.tBodies[0].rows].map((row) => ({ row, key: sortable(row.cells[column]) }));
  const numeric = rows.filter(({ key }) => !Number.isNaN(key.number)).length * 2 > rows.length;
  const before = head.getAttribute("aria-sort");
  const up = before === "none" ? !numeric : before === "descending";
  for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  const sign = up ? 1 : -1;
  rows.sort(({ key: a }, { key: b }) => {
    if (!numeric) return sign * a.text.localeCompare(b.text);
    if (Number.isNaN(a.number) || Number.isNaN(b.number)) return Number.isNaN(a.number) - Number.isNaN(b.number);
    return sign * (a.number - b.number);
  });
  table.tBodies[0].append(...rows.map(({ row }) => row));
}

for (const table of document.querySelectorAll("table.data")) {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => sort(table, column, head));
  });
}

// --- charts: drawn when they come into view, again when their list picks another, or the width changes kind ---

const FONT = { family: "system-ui, sans-serif", size: 13, color: "#1f2430" };
const AXIS = { gridcolor: "#e4e7ee", linecolor: "#8a91a1", zeroline: false, automargin: true, ticks: "outside", tickcolor: "#8a91a1" };

function named(figure) {
  return figure.data.filter((trace) => trace.name && trace.showlegend !== false).length;
}

// On a phone the legend stands below the chart, which grows by it; elsewhere beside it.
function layoutOf(figure, narrow) {
  const axes = {};
  for (const axis of ["xaxis", "yaxis"]) {
    axes[axis] = { ...AXIS, ...figure.layout[axis], title: { ...figure.layout[axis].title, standoff: 8 } };
  }
  const below = narrow && figure.layout.showlegend ? LINE * named(figure) + 20 : 0;
  const legend = { tracegroupgap: 0, ...(below ? { orientation: "h", yref: "container", y: 0, yanchor: "bottom", maxheight: below, entrywidth: 250 } : {}) };
  const margin = { l: 55, r: 15, t: 32, b: 55 + below };
  return { ...figure.layout, ...axes, legend, font: FONT, margin, hovermode: "closest", autosize: true };
}

function tracesOf(figure, narrow) {
  const traces = structuredClone(figure.data);
  for (const { marker } of traces) {
    if (narrow && marker && marker.colorbar) Object.assign(marker.colorbar, { orientation: "h", y: -0.22, yanchor: "top", len: 1 });
  }
  return traces;
}

function draw(plot) {
  const narrow = window.innerWidth < NARROW;
  const figure = DATA.figures[plot.figure];
  const lines = figure.layout.showlegend ? LINE * named(figure) : 0;
  plot.style.height = `${narrow ? 360 + lines : Math.max(400, lines + 125)}px`;
  const options = { responsive: true, displaylogo: false, displayModeBar: true, modeBarButtons: [["toImage", "resetScale2d"]] };
  plot.dataset.drawn = plot.figure;
  Plotly.react(plot, tracesOf(figure, narrow), layoutOf(figure, narrow), options);
  plot.dispatchEvent(new CustomEvent("drawn"));
}

const seen = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (isIntersecting && target.figure !== null && target.dataset.drawn !== String(target.figure)) draw(target);
  }
}, { rootMargin: "300px" });

function pick(chart, choice) {
  const figures = JSON.parse(chart.dataset.picks)[choice];
  [...chart.querySelectorAll(".plot")].forEach((plot, place) => {
    plot.figure = figures[place];
    plot.hidden = plot.figure === null;
    plot.parentElement.querySelector(".absent").hidden = plot.figure !== null;
    seen.unobserve(plot);
    seen.observe(plot); // tells at once whether it is in view
  });
}

for (const chart of document.querySelectorAll(".plots")) pick(chart, 0);
for (const select of document.querySelectorAll("select[data-chart]")) {
  select.addEventListener("change", () => pick(document.getElementById(select.dataset.chart), Number(select.value)));
}

window.matchMedia(`(max-width: ${NARROW - 1}px)`).addEventListener("change", () => {
  for (const plot of document.querySelectorAll(".plot[data-drawn]")) if (!plot.hidden) draw(plot);
});

// --- items: a cover, titles, a number ---

function itemOf(dataset, item, tags = []) {
  const { titles, covers } = DATA.items[dataset];
  const made = element("div", "item");
  if (covers[item]) {
    const image = element("img");
    image.src = covers[item];
    image.alt = "";
    made.append(image);
  } else if (Object.keys(covers).length) made.append(element("span", "none"));
  const words = element("div");
  titles[item].forEach((title, place) => {
    const line = element(place ? "small" : "span", "title", title);
    line.title = title; // long ones are cut
    words.append(line);
  });
  words.append(element("small", "", `item ${item} `));
  for (const tag of tags) words.append(element("span", "tag", tag), " ");
  made.append(words);
  return made;
}

for (const list of document.querySelectorAll(".pairs")) {
  for (const pair of list.children) {
    const roles = [["target"], ["chosen as similar"]];
    pair.prepend(...pair.dataset.items.split(",").map((item, place) => itemOf(list.dataset.dataset, item, roles[place])));
  }
}

// --- the map: the item pointed at or found is shown, and ringed in both pictures ---

for (const map of document.querySelectorAll(".map")) {
  const { dataset } = map.dataset;
  const { titles } = DATA.items[dataset];
  const plots = [...map.querySelectorAll(".plot")];
  const panel = map.querySelector(".looked-at");
  const search = map.querySelector("input");

  const show = (item) => {
    panel.replaceChildren(itemOf(dataset, item));
    for (const plot of plots) {
      if (plot.hidden || plot.dataset.drawn === undefined) continue;
      const [points] = plot.data;
      const place = points.customdata.indexOf(item);
      Plotly.restyle(plot, { x: [[points.x[place]]], y: [[points.y[place]]] }, [1]);
    }
  };
  for (const plot of plots) {
    plot.addEventListener("drawn", () => {
      plot.removeAllListeners("plotly_hover");
      plot.on("plotly_hover", ({ points }) => show(points[0].customdata));
    });
  }
  const drawn = [...new Set(JSON.parse(map.querySelector(".plots").dataset.picks).flat().filter((figure) => figure !== null)
    .flatMap((figure) => DATA.figures[figure].data[0].customdata))];
  const labels = new Map(drawn.map((item) => [`${titles[item][0]} (${item})`, item]));
  map.querySelector("datalist").append(...[...labels.keys()].map((label) => {
    const option = element("option");
    option.value = label;
    return option;
  }));
  search.addEventListener("change", () => {
    const asked = search.value.trim();
    const found = [...labels].find(([label, item]) => label === asked || String(item) === asked)
      || [...labels].find(([label]) => asked && label.toLowerCase().includes(asked.toLowerCase()));
    if (found) show(found[1]);
    else panel.replaceChildren(element("p", "note", "No drawn item has this title or number."));
  });
}

// --- recommendations ---

for (const browser of document.querySelectorAll(".browser")) {
  const { rows, users, dataset } = DATA.browsers[browser.dataset.part];
  const select = browser.querySelector("select");
  const [previous, next] = ["previous", "next"].map((name) => browser.querySelector(`button.${name}`));
  const shown = browser.querySelector(".shown");

  const show = () => {
    const user = users[select.selectedIndex];
    previous.disabled = select.selectedIndex === 0;
    next.disabled = select.selectedIndex === users.length - 1;
    browser.querySelector(".place").textContent = `${select.selectedIndex + 1} of ${users.length}`;
    const left = user.seen - user.history.length;
    const history = element("ol", "history");
    history.tabIndex = 0;
    history.setAttribute("aria-label", "History, oldest first");
    history.append(...user.history.map((item) => {
      const line = element("li");
      line.append(itemOf(dataset, item));
      return line;
    }));
    const target = element("div", "target");
    target.append(itemOf(dataset, user.next));
    const models = element("div", "models");
    models.tabIndex = 0;
    models.setAttribute("role", "region");
    models.setAttribute("aria-label", "What each model shows");
    models.append(...rows.map((row, place) => modelOf(row, user, place)));
    shown.replaceChildren(
      element("h4", "", `History: ${user.seen} items${left ? `, the latest ${user.history.length}` : ""}, oldest first`),
      history, element("h4", "", "What came next"), target, element("h4", "", "What each model shows"), models);
    history.scrollLeft = history.scrollWidth;
  };

  const modelOf = (row, user, place) => {
    const made = element("section");
    const list = element("ol");
    list.append(...user.top[place].map((item) => {
      const hit = item === user.next;
      const line = element("li", hit ? "hit" : "");
      const tags = [...(hit ? ["next item"] : []), ...(user.repeats.includes(item) ? ["seen"] : [])];
      line.append(itemOf(dataset, item, tags));
      return line;
    }));
    const seed = row.runs > 1 ? `, seed ${row.seed}` : "";
    const masked = user.ranks_masked ? `, with the history masked ${user.ranks_masked[place]}` : "";
    made.append(element("h5", "", row.name), element("p", "note", `next item at rank ${user.ranks[place]}${masked}${seed}`), list);
    return made;
  };

  select.append(...users.map((user) => element("option", "", user.id)));
  select.addEventListener("change", show);
  previous.addEventListener("click", () => { select.selectedIndex -= 1; show(); });
  next.addEventListener("click", () => { select.selectedIndex += 1; show(); });
  show();
}
