"use strict";
// The candidates: which set, what is searched for, how sorted, which are shown.
(() => {
  const box = document.getElementById("list");
  if (!box) return;
  const get = (id) => document.getElementById(id);
  const [setChoice, search, sort, order, other, only, count, details] =
    ["set", "search", "sort", "order", "other", "only", "count", "details"].map(get);
  const browser = box.parentElement;
  let set = null;
  let ranks = {};
  let words = null;
  let selected = -1;

  // Places from 0 (lowest) to 1 (highest); equal scores share the mean of their places.
  function ranked(name) {
    if (ranks[name]) return ranks[name];
    const values = set.scores[name];
    const by = values.map((_, i) => i).sort((a, b) => values[a] - values[b]);
    const found = new Float64Array(values.length);
    for (let start = 0; start < by.length;) {
      let end = start;
      while (end < by.length && values[by[end]] === values[by[start]]) end += 1;
      for (let i = start; i < end; i += 1) found[by[i]] = (start + end - 1) / 2 / Math.max(1, by.length - 1);
      start = end;
    }
    ranks[name] = found;
    return found;
  }

  function haystack() {
    words = words || set.ids.map((id, i) =>
      [id, set.groups[i], ...(set.texts ? set.texts[i].slice(0, 2) : [])].join("\n").toLowerCase());
    return words;
  }

  const sides = (side) => new Set(Object.values(set.pairs).flatMap((pairs) => pairs.map((pair) => pair[side])));
  const kinds = {
    all: () => () => true,
    "score above 0": () => (i) => set.scores[sort.value][i] > 0,
    "score below its standard error": () => (i) =>
      set.stderr[sort.value] && Math.abs(set.scores[sort.value][i]) < set.stderr[sort.value][i],
    chosen: () => { const found = sides(0); return (i) => found.has(i); },
    rejected: () => { const found = sides(1); return (i) => found.has(i); },
  };

  const gap = (i) => Math.abs(ranked(sort.value)[i] - ranked(other.value)[i]);

  function fill(row, i) {
    const shown = set.texts ? set.texts[i][0].slice(0, 200) || set.ids[i] : set.ids[i];
    const value = page.number(set.scores[sort.value][i]);
    const under = other.value ? `${other.value}: ${page.number(set.scores[other.value][i])}` : (set.groups[i] || "");
    const right = other.value ? `places ${Math.round(100 * gap(i))} % apart` : "";
    row.append(
      page.element("div", "", shown), page.element("div", "score", value),
      page.element("div", "sub", set.texts ? `${set.ids[i]}${other.value ? ` · ${under}` : ""}` : under), page.element("div", "sub score", right),
    );
  }

  function close() {
    details.hidden = true;
    browser.classList.remove("open");
    box.focus();
  }

  function open(i, focus) {
    selected = i;
    browser.classList.add("open");
    page.details(details, set, i, sort.value, (to) => { open(to, true); refresh(); }, close);
    if (focus) details.focus();
  }

  const rowHeight = 3.5 * parseFloat(getComputedStyle(document.documentElement).fontSize);
  const list = page.list(box, get("space"), rowHeight, fill, open);

  function refresh() {
    const wanted = search.value.trim().toLowerCase();
    const keep = kinds[only.value]();
    const texts = wanted ? haystack() : null;
    const found = [];
    for (let i = 0; i < set.ids.length; i += 1) {
      if (keep(i) && (!wanted || texts[i].includes(wanted))) found.push(i);
    }
    const sign = Number(order.value);
    const value = other.value ? gap : (i) => set.scores[sort.value][i];
    const keys = new Map(found.map((i) => [i, value(i)]));
    const blank = (i) => set.scores[sort.value][i] === null;
    found.sort((a, b) => blank(a) - blank(b) || sign * (keys.get(a) - keys.get(b)) || a - b);
    count.textContent = `${found.length.toLocaleString("en")} of ${set.ids.length.toLocaleString("en")} candidates`
      + (set.texts ? "" : "; the results keep no texts: make the report with --store or --candidates to read them");
    list.show(found, selected);
  }

  function choose() {
    set = page.data.sets[Number(setChoice.value)];
    [ranks, words, selected] = [{}, null, -1];
    const names = Object.keys(set.scores);
    page.options(sort, names);
    page.options(other, ["–", ...names], ["", ...names]);
    page.options(only, Object.keys(kinds).filter((kind) => !["chosen", "rejected"].includes(kind) || Object.keys(set.pairs).length));
    if (names.includes("exact")) sort.value = "exact";
    details.hidden = true;
    browser.classList.remove("open");
    refresh();
  }

  page.options(setChoice, page.data.sets.map((one) => one.name), page.data.sets.map((_, i) => String(i)));
  setChoice.addEventListener("change", choose);
  search.addEventListener("input", refresh);
  for (const control of [sort, order, other, only]) {
    control.addEventListener("change", () => {
      refresh();
      if (!details.hidden) open(selected, false);
    });
  }
  document.addEventListener("keydown", (event) => {
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName);
    if (event.key === "/" && !typing) {
      event.preventDefault();
      search.focus();
    } else if (event.key === "Escape" && document.activeElement === search) {
      box.focus();
    } else if (event.key === "Escape" && !details.hidden) {
      close();
    }
  });
  choose();
})();
