"use strict";
// The two plots of a track: accuracy against attack success, and persistence. Drawn as SVG in the colours of the theme.
(() => {
  const SPACE = "http://www.w3.org/2000/svg", COLOURS = 7;
  const SHAPES = ["M-5,0a5,5 0 1,0 10,0a5,5 0 1,0 -10,0Z", "M-4.6,-4.6H4.6V4.6H-4.6Z", "M0,-5.8L5.4,4.4H-5.4Z"];
  const DIAMOND = "M0,-6.5L6.5,0L0,6.5L-6.5,0Z";
  const LEFT = 46, RIGHT = 14, TOP = 12, BOTTOM = 44;

  const element = (name, attributes = {}, ...children) => {
    const made = document.createElementNS(SPACE, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  };
  const html = (name, properties = {}, ...children) => {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  };
  const unique = values => [...new Set(values)];
  const colour = number => `var(--board-${number % COLOURS + 1})`;
  const shape = number => SHAPES[Math.floor(number / COLOURS) % SHAPES.length];
  const percent = value => Number(value).toFixed(1);

  // Round steps of an axis, about `count` of them.
  const ticks = (low, high, count) => {
    const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map(one => one * power).find(one => one >= rough);
    const found = [];
    for (let value = Math.ceil(low / step) * step; value <= high + 1e-9; value += step) found.push(Number(value.toFixed(6)));
    return found;
  };

  // A frame with grid and axes; returns the drawing, and functions from values to places.
  const frame = (plot, label, [left, right], [low, high], names) => {
    const width = Math.max(280, plot.clientWidth), height = Math.min(460, Math.max(300, width * .62));
    const end = width - RIGHT, bottom = height - BOTTOM;
    const x = value => LEFT + (value - left) / (right - left || 1) * (end - LEFT);
    const y = value => bottom - (value - low) / (high - low || 1) * (bottom - TOP);
    const svg = element("svg", {viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": label});
    for (const value of ticks(left, right, width / 90)) {
      svg.append(element("line", {class: "grid", x1: x(value), x2: x(value), y1: TOP, y2: bottom}));
      svg.append(element("text", {x: x(value), y: bottom + 17, "text-anchor": "middle"}, String(value)));
    }
    for (const value of ticks(low, high, 5)) {
      svg.append(element("line", {class: "grid", x1: LEFT, x2: end, y1: y(value), y2: y(value)}));
      svg.append(element("text", {x: LEFT - 7, y: y(value) + 4, "text-anchor": "end"}, String(value)));
    }
    svg.append(element("line", {class: "axis", x1: LEFT, x2: end, y1: bottom, y2: bottom}));
    svg.append(element("text", {class: "title", x: (LEFT + end) / 2, y: height - 8, "text-anchor": "middle"}, names[0]));
    const middle = (TOP + bottom) / 2;
    svg.append(element("text", {class: "title", x: 12, y: middle, "text-anchor": "middle", transform: `rotate(-90 12 ${middle})`}, names[1]));
    return {svg, x, y, end, bottom};
  };

  const choice = (name, values, change) => {
    const select = html("select", {name});
    select.append(...values.map(value => new Option(value, value)));
    select.addEventListener("input", change);
    return [select, html("label", {}, `${name} `, select)];
  };

  // Buttons that show and hide; `hidden` is a set of names.
  const legend = (entries, hidden, change) => {
    const bar = html("div", {className: "board-legend"});
    for (const [name, mark] of entries) {
      const button = html("button", {type: "button"}, element("svg", {viewBox: "-8 -8 16 16", "aria-hidden": "true"}, mark), name);
      button.setAttribute("aria-pressed", String(!hidden.has(name)));
      button.addEventListener("click", () => { hidden.has(name) ? hidden.delete(name) : hidden.add(name); change(name); });
      bar.append(button);
    }
    return bar;
  };

  const scaffold = (place, controls) => {
    const plot = html("div", {className: "board-plot"}), told = html("p", {className: "board-told"});
    told.setAttribute("aria-live", "polite");
    const form = html("form", {className: "board-filters board-controls"}, ...controls);
    form.addEventListener("submit", event => event.preventDefault());
    place.replaceChildren(form, plot, told);
    return {plot, told};
  };
  // Draw now, and again when the width changes.
  const redrawn = (plot, draw) => {
    let width = plot.clientWidth;
    draw();
    new ResizeObserver(() => {
      if (plot.clientWidth === width) return;
      width = plot.clientWidth;
      draw();
    }).observe(plot);
  };
  const refocus = (plot, name) => [...plot.querySelectorAll(".board-legend button")].find(one => one.textContent === name)?.focus();

  const plane = (place, table) => {
    const value = row => ({x: Number(row.dataset.ca1), y: Number(row.dataset.asr1)});
    const rows = [...table.tBodies[0].rows].filter(row => row.dataset.ca1 !== "" && row.dataset.asr1 !== "");
    const group = row => `${row.dataset.attack}${row.dataset.attackEntry && ` ${row.dataset.attackEntry}`} (${row.dataset.model}, ${row.dataset.source})`;
    const methods = unique(rows.filter(row => !("undefended" in row.dataset)).map(row => row.dataset.defense));
    const hidden = new Set(), budget = Number(place.dataset.budget);
    const names = row => `${row.dataset.attack}, ${row.dataset.defense}${row.dataset.defenseEntry && ` (${row.dataset.defenseEntry})`}, ${row.dataset.source}`;

    const point = (row, parts, told) => {
      const {x, y} = value(row), start = "undefended" in row.dataset, number = methods.indexOf(row.dataset.defense);
      const words = `${names(row)}: ASR@1 ${percent(y)}, CA@1 ${percent(x)}${row.dataset.seeds ? `, seeds ${row.dataset.seeds}` : ""}`;
      const mark = element("path", {
        class: "point", tabindex: 0, role: "button", "aria-label": words, d: start ? DIAMOND : shape(number),
        transform: `translate(${parts.x(x)} ${parts.y(y)})`, fill: start ? "var(--md-default-fg-color)" : colour(number),
      }, element("title", {}, words));
      const tell = () => { told.textContent = words; };
      mark.addEventListener("pointerenter", tell);
      mark.addEventListener("focus", tell);
      mark.addEventListener("click", () => {
        tell();
        table.querySelectorAll("tr.marked").forEach(other => other.classList.remove("marked"));
        row.classList.add("marked");
      });
      return mark;
    };

    const draw = focused => {
      const shown = rows.filter(row => !row.hidden && group(row) === select.value && !hidden.has(row.dataset.defense));
      const start = rows.find(row => group(row) === select.value && "undefended" in row.dataset);
      const points = [...shown, ...(start ? [start] : [])].map(value);
      if (!points.length) points.push({x: 50, y: 50});
      const low = Math.floor(Math.min(...points.map(p => p.x)) / 5) * 5, high = Math.min(100, Math.ceil((Math.max(...points.map(p => p.x)) + 1) / 5) * 5);
      const parts = frame(plot, "accuracy and attack success", [low, high], [0, 100], ["CA@1, percent", "ASR@1, percent"]);
      if (start) {
        const edge = Math.max(low, value(start).x - budget), end = Math.min(high, Math.max(value(start).x, edge));
        parts.svg.append(element("rect", {class: "band", x: parts.x(edge), y: TOP, width: parts.x(end) - parts.x(edge), height: parts.bottom - TOP}));
      }
      const floor = start?.dataset.floor;
      if (floor) parts.svg.append(element("line", {class: "floor", x1: LEFT, x2: parts.end, y1: parts.y(floor), y2: parts.y(floor)}));
      for (const [number, method] of methods.entries()) {
        const mine = shown.filter(row => row.dataset.defense === method).map(value).sort((a, b) => b.y - a.y);
        const from = start && !start.hidden && mine.length ? [value(start)] : [];
        const path = [...from, ...mine].map(p => `${parts.x(p.x)},${parts.y(p.y)}`);
        if (path.length > 1) parts.svg.append(element("polyline", {class: "line", points: path.join(" "), stroke: colour(number), opacity: .45}));
      }
      parts.svg.append(...shown.map(row => point(row, parts, told)));
      const present = methods.filter(method => rows.some(row => group(row) === select.value && row.dataset.defense === method));
      const entries = present.map(method => [method, element("path", {d: shape(methods.indexOf(method)), fill: colour(methods.indexOf(method))})]);
      if (start) entries.unshift([start.dataset.defense, element("path", {d: DIAMOND, fill: "var(--md-default-fg-color)"})]);
      plot.replaceChildren(parts.svg, legend(entries, hidden, draw));
      if (focused) refocus(plot, focused);
    };

    const [select, label] = choice("cells", unique(rows.map(group)), () => draw());
    const most = name => rows.filter(row => group(row) === name).length;
    select.value = [...select.options].map(option => option.value).reduce((best, name) => most(name) > most(best) ? name : best);
    const {plot, told} = scaffold(place, [label]);
    told.textContent = "A point tells its figures; a click marks its row in the table. Names below the plot show and hide a method.";
    table.addEventListener("filtered", () => draw());
    redrawn(plot, draw);
  };

  const persistence = (surface, curves) => {
    const group = curve => `${curve.attack}${curve.attack_entry && ` ${curve.attack_entry}`}, ${curve.adaptation} (${curve.source})`;
    const name = curve => curve.entry || curve.defense;
    const all = unique(curves.filter(curve => !curve.undefended).map(name)), hidden = new Set();
    const place = one => all.indexOf(one);  // -1: the undefended model
    const tint = one => place(one) < 0 ? "var(--md-default-fg-color)" : colour(place(one));
    const mark = one => place(one) < 0 ? DIAMOND : shape(place(one));
    const draw = focused => {
      const mine = curves.filter(curve => group(curve) === select.value), shown = mine.filter(curve => !hidden.has(name(curve)));
      const last = Math.max(...mine.flatMap(curve => curve.points.map(p => p[0])));
      const parts = frame(plot, "persistence", [0, last || 1], [0, 100], ["steps of the adaptation", "ASR@1, percent"]);
      for (const curve of shown) {
        const clean = curve.model === "clean";
        const points = curve.points.map(p => `${parts.x(p[0])},${parts.y(p[1])}`).join(" ");
        parts.svg.append(element("polyline", {class: clean ? "line clean" : "line", points, stroke: tint(name(curve))}));
        for (const [step, score, accuracy] of curve.points) {
          const words = `${name(curve)}${clean ? ", clean model" : ""}, step ${step}: ASR@1 ${percent(score)}, CA@1 ${percent(accuracy)}, seeds ${curve.seeds}`;
          const point = element("path", {
            class: "point", tabindex: 0, role: "img", "aria-label": words, d: mark(name(curve)), fill: tint(name(curve)),
            transform: `translate(${parts.x(step)} ${parts.y(score)}) scale(${clean ? .6 : .8})`,
          }, element("title", {}, words));
          point.addEventListener("pointerenter", () => { told.textContent = words; });
          point.addEventListener("focus", () => { told.textContent = words; });
          parts.svg.append(point);
        }
      }
      const entries = unique(mine.map(name)).map(one => [one, element("path", {d: mark(one), fill: tint(one)})]);
      plot.replaceChildren(parts.svg, legend(entries, hidden, draw));
      if (focused) refocus(plot, focused);
    };
    const [select, label] = choice("cells", unique(curves.map(group)), () => draw());
    const {plot, told} = scaffold(surface, [label]);
    told.textContent = "A point tells its figures. Names below the plot show and hide a defense.";
    redrawn(plot, draw);
  };

  const surface = document.querySelector(".board-plane");
  const table = document.querySelector(".board table");
  if (surface && table && [...table.tBodies[0].rows].some(row => row.dataset.ca1 !== "" && row.dataset.asr1 !== "")) plane(surface, table);
  const place = document.querySelector(".board-curves"), data = document.querySelector(".board-curves-data");
  if (place && data) persistence(place, JSON.parse(data.textContent));
})();
