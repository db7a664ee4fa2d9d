"use strict";
// A list of any length: only the rows in sight are in the document.
page.list = function (box, space, rowHeight, fill, open) {
  const AROUND = 6;
  let items = [];
  let current = -1;
  const rows = new Map();

  function row(position) {
    const made = page.element("div", "row");
    made.setAttribute("role", "option");
    made.id = `row-${position}`;
    made.style.top = `${position * rowHeight}px`;
    made.setAttribute("aria-posinset", position + 1);
    made.setAttribute("aria-setsize", items.length);
    fill(made, items[position]);
    made.addEventListener("click", () => { move(position); open(items[position]); });
    return made;
  }

  function draw() {
    const first = Math.max(0, Math.floor(box.scrollTop / rowHeight) - AROUND);
    const last = Math.min(items.length, Math.ceil((box.scrollTop + box.clientHeight) / rowHeight) + AROUND);
    for (const [position, made] of rows) {
      if (position < first || position >= last) {
        made.remove();
        rows.delete(position);
      }
    }
    for (let position = first; position < last; position += 1) {
      if (!rows.has(position)) {
        rows.set(position, row(position));
        box.append(rows.get(position));
      }
      rows.get(position).setAttribute("aria-selected", String(position === current));
    }
    if (rows.has(current)) box.setAttribute("aria-activedescendant", `row-${current}`);
    else box.removeAttribute("aria-activedescendant");
  }

  function move(position) {
    if (!items.length) return;
    current = Math.min(items.length - 1, Math.max(0, position));
    const top = current * rowHeight;
    if (top < box.scrollTop) box.scrollTop = top;
    if (top + rowHeight > box.scrollTop + box.clientHeight) box.scrollTop = top + rowHeight - box.clientHeight;
    draw();
  }

  function show(found, selected) {
    items = found;
    current = items.indexOf(selected);
    for (const made of rows.values()) made.remove();
    rows.clear();
    space.style.height = `${items.length * rowHeight}px`;
    box.scrollTop = Math.max(0, current * rowHeight - box.clientHeight / 2);
    draw();
  }

  const page_ = () => Math.max(1, Math.floor(box.clientHeight / rowHeight) - 1);
  const keys = {
    ArrowDown: () => move(current + 1), ArrowUp: () => move(current - 1),
    PageDown: () => move(current + page_()), PageUp: () => move(current - page_()),
    Home: () => move(0), End: () => move(items.length - 1),
    Enter: () => { if (current >= 0) open(items[current], true); },
  };
  box.addEventListener("keydown", (event) => {
    if (!keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  });
  box.addEventListener("scroll", draw, { passive: true });
  new ResizeObserver(draw).observe(box);
  return { show };
};
