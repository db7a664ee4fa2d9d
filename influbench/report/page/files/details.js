"use strict";
// One candidate: its texts, what every estimator says of it, its siblings side by side.
page.details = function (box, set, at, sorted, go, close) {
  const MOST = 12; // siblings shown
  const { element, number } = page;

  function tags(node, i) {
    for (const [arm, pairs] of Object.entries(set.pairs)) {
      const chosen = pairs.filter((pair) => pair[0] === i).length;
      const rejected = pairs.filter((pair) => pair[1] === i).length;
      if (chosen) node.append(element("span", "tag chosen", `chosen ×${chosen} by ${arm}`));
      if (rejected) node.append(element("span", "tag rejected", `rejected ×${rejected} by ${arm}`));
    }
  }

  function part(title, text) {
    box.append(element("h4", "", title), element("pre", "", text));
  }

  function scores() {
    const table = element("table");
    const head = table.createTHead().insertRow();
    for (const title of ["estimator", "score", "s.e.", "place"]) head.append(element("th", "", title));
    const body = table.createTBody();
    for (const [name, values] of Object.entries(set.scores)) {
      const row = body.insertRow();
      row.append(element("th", "", name));
      const place = values[at] === null ? "–" : `${1 + values.filter((v) => v !== null && v > values[at]).length} of ${values.length}`;
      const cells = [number(values[at]), number((set.stderr[name] || [])[at]), place];
      row.append(...cells.map((text) => element("td", "number", text)));
    }
    const scroll = element("div", "scroll");
    scroll.append(table);
    box.append(element("h4", "", "scores"), scroll);
  }

  function sibling(i) {
    const card = element("div", i === at ? "sibling this" : "sibling");
    const name = element("button", "", set.ids[i]);
    name.type = "button";
    name.addEventListener("click", () => go(i));
    card.append(name, element("div", "", `${sorted}: ${number(set.scores[sorted][i])}`));
    tags(card, i);
    if (set.texts) card.append(element("pre", "", set.texts[i][1]));
    return card;
  }

  function siblings() {
    const group = set.groups[at];
    if (!group) return;
    const all = set.ids.map((_, i) => i).filter((i) => set.groups[i] === group);
    if (all.length < 2) return;
    all.sort((a, b) => set.scores[sorted][b] - set.scores[sorted][a]);
    box.append(element("h4", "", `siblings of ${group}, best by ${sorted} first` + (all.length > MOST ? ` (${MOST} of ${all.length})` : "")));
    const grid = element("div", "siblings");
    grid.append(...all.slice(0, MOST).map(sibling));
    box.append(grid);
  }

  box.replaceChildren();
  const shut = element("button", "close", "close (Esc)");
  shut.type = "button";
  shut.addEventListener("click", close);
  box.append(shut, element("h3", "", set.ids[at]));
  tags(box, at);
  if (set.texts) {
    part("instruction", set.texts[at][0]);
    part("response" + (set.texts[at][2] ? "" : " (cut off)"), set.texts[at][1]);
  } else {
    box.append(element("p", "quiet", "The results keep scores, not texts: make the report with --store or --candidates to read them."));
  }
  for (const [judge, text] of set.words[at] || []) part(`what ${judge} wrote`, text);
  scores();
  siblings();
  box.hidden = false;
  box.scrollTop = 0;
};
