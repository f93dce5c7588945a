"use strict";
(() => {
  const report = JSON.parse(document.getElementById("data").textContent);
  const heads = report.heads;
  const at = (id) => document.getElementById(id);
  const text = (node, content) => { node.textContent = content; return node; };
  const make = (name, content, style) => {
    const node = document.createElement(name);
    if (content !== undefined) node.textContent = content;
    if (style) node.className = style;
    return node;
  };
  const fixed = (value, digits) => value === null ? "" : value.toFixed(digits);

  // Marks: kept by the browser under a name that stands for this set of heads, and saved on demand.
  const key = "trephine-marks-" + report.id;
  let marks = {};
  try { marks = JSON.parse(localStorage.getItem(key)) || {}; } catch { marks = {}; }
  const markOf = (head) => (marks[head.path] && marks[head.path].mark) || "";
  const noteOf = (head) => (marks[head.path] && marks[head.path].note) || "";
  const setMark = (head, change) => {
    const entry = { mark: markOf(head), note: noteOf(head), ...change };
    if (entry.mark || entry.note) marks[head.path] = entry; else delete marks[head.path];
    try { localStorage.setItem(key, JSON.stringify(marks)); } catch { /* Private windows keep nothing: save the file. */ }
    drawRow(head);
    counts();
  };

  const columns = [
    { name: "head", value: (h) => h.path, ascending: true },
    { name: "mL", value: (h) => h.ml, number: true, ascending: true },
    { name: "score", value: (h) => h.score, number: true, ascending: true },
    { name: "look at", value: (h) => h.rank, ascending: true },
    { name: "mark", value: (h) => markOf(h), ascending: true },
    { name: "s", value: (h) => h.seconds, number: true, ascending: false },
  ];
  let order = { column: 3, ascending: true };
  let bin = null;
  let here = heads[0];
  let shown = [];

  const nodes = new Map();
  const signs = { good: "\u2713 good", bad: "\u2717 bad" };

  const drawRow = (head) => {
    const row = nodes.get(head) || make("tr");
    nodes.set(head, row);
    row.replaceChildren();
    row.classList.toggle("here", head === here);
    row.dataset.path = head.path;
    const thumb = make("td", undefined, "thumb");
    if (head.thumb) {
      const image = make("img");
      image.loading = "lazy";
      image.decoding = "async";
      image.alt = "Slices of " + head.name + " with the outline of its mask";
      image.src = "data:image/jpeg;base64," + head.thumb;
      thumb.append(image);
    } else {
      thumb.append(make("small", head.status === "failed" ? "failed" : "no picture"));
    }
    const name = make("td", head.name, "name");
    if (head.folder) name.append(make("small", head.folder));
    const reasons = make("td");
    head.reasons.forEach((reason) => reasons.append(make("small", reason, "reason")));
    const mark = make("td");
    if (markOf(head)) mark.append(make("span", signs[markOf(head)], "mark " + markOf(head)));
    if (noteOf(head)) mark.append(make("small", noteOf(head)));
    row.append(thumb, name, make("td", fixed(head.ml, 0), "n"), make("td", fixed(head.score, 2), "n"), reasons, mark,
      make("td", fixed(head.seconds, 1), "n"));
    row.onclick = () => go(head);
    return row;
  };

  const matches = (head) => {
    const words = at("find").value.toLowerCase().split(/\s+/).filter(Boolean);
    if (!words.every((word) => head.haystack.includes(word))) return false;
    if (bin && !(head.ml !== null && head.ml >= bin[0] && head.ml < bin[1])) return false;
    switch (at("show").value) {
      case "suspect": return head.reasons.length > 0;
      case "warned": return head.warnings.length > 0;
      case "failed": return head.status !== "ok";
      case "unmarked": return !markOf(head);
      case "good": return markOf(head) === "good";
      case "bad": return markOf(head) === "bad";
      default: return true;
    }
  };

  const list = () => {
    const { value } = columns[order.column];
    const sign = order.ascending ? 1 : -1;
    // What has no value comes last in both directions.
    const compare = (a, b) => {
      const [x, y] = [value(a), value(b)];
      const [emptyX, emptyY] = [x === null || x === "", y === null || y === ""];
      if (emptyX || emptyY) return emptyX - emptyY || a.rank - b.rank;
      const byValue = typeof x === "number" ? x - y : x.localeCompare(y, undefined, { numeric: true });
      return sign * byValue || a.rank - b.rank;
    };
    shown = heads.filter(matches).sort(compare);
    at("rows").replaceChildren(...shown.map((head) => nodes.get(head)));
    text(at("shown"), shown.length + " of " + heads.length);
    document.querySelectorAll("#heads th").forEach((cell, ix) => {
      const sorted = ix - 1 === order.column;
      cell.setAttribute("aria-sort", sorted ? (order.ascending ? "ascending" : "descending") : "none");
      const column = columns[ix - 1];
      if (column) text(cell.firstChild, column.name + (sorted ? (order.ascending ? " \u25b2" : " \u25bc") : ""));
    });
  };

  const counts = () => {
    const number = (test) => heads.filter(test).length;
    const parts = [
      heads.length + " heads", number((h) => h.status === "failed") + " failed",
      number((h) => h.reasons.length > 0) + " with a reason to look",
      number((h) => markOf(h) === "good") + " marked good", number((h) => markOf(h) === "bad") + " marked bad",
    ];
    if (report.median !== null) parts.push("median " + report.median.toFixed(0) + " mL");
    text(at("counts"), parts.join(" \u00b7 "));
  };

  const go = (head) => {
    if (!head) return;
    const before = here;
    here = head;
    if (before) nodes.get(before).classList.remove("here");
    const row = nodes.get(head);
    row.classList.add("here");
    row.scrollIntoView({ block: "nearest" });
    text(at("name"), head.name);
    const facts = [
      ["file", head.path], ["status", head.status], ["brain", head.ml === null ? "" : fixed(head.ml, 1) + " mL"],
      ["score", fixed(head.score, 3)], ["time", fixed(head.seconds, 2) + " s"],
      ["peak memory", head.memory === null ? "" : fixed(head.memory, 0) + " MiB"], ["model", head.model],
      ["mark", signs[markOf(head)] || "none"],
    ];
    at("facts").replaceChildren(...facts.filter(([, value]) => value)
      .flatMap(([name, value]) => [make("dt", name), make("dd", value)]));
    const remarks = [...(head.error ? [head.error] : []), ...head.warnings];
    at("remarks").replaceChildren(...remarks.map((remark) => make("li", remark)));
    at("note").value = noteOf(head);
    const picture = at("picture");
    const small = head.thumb ? "data:image/jpeg;base64," + head.thumb : "";
    text(at("nopicture"), "");
    picture.hidden = !(head.picture || small);
    picture.alt = "Slices of " + head.name + " with the outline of its mask, and the brain below";
    // Away from its folder the page has the small pictures only.
    picture.onerror = () => {
      picture.onerror = null;
      text(at("nopicture"), "The large picture is not beside this page: " + head.picture);
      if (small) picture.src = small; else picture.hidden = true;
    };
    if (head.picture) { picture.src = head.picture; at("picturelink").href = head.picture; }
    else { at("picturelink").removeAttribute("href"); if (small) picture.src = small; }
    drawHistogram();
  };

  const step = (by, wanted) => {
    const from = shown.indexOf(here);
    for (let ix = from + by; ix >= 0 && ix < shown.length; ix += by) {
      if (!wanted || wanted(shown[ix])) return go(shown[ix]);
    }
  };
  const mark = (value) => {
    const head = here;
    setMark(head, { mark: value });
    if (value) step(1); else go(head);
    if (here === head) go(head);
  };

  // Volumes: bars, those far from the median open; the head at hand as a pointer.
  const volumes = heads.filter((head) => head.ml !== null).map((head) => head.ml);
  const low = Math.min(...volumes), high = Math.max(...volumes);
  const number = Math.max(1, Math.min(40, Math.ceil(2 * Math.cbrt(volumes.length) * 1.5)));
  const width = (high - low) / number || 1;
  const bins = Array.from({ length: number }, () => 0);
  volumes.forEach((ml) => { bins[Math.min(number - 1, Math.floor((ml - low) / width))] += 1; });
  const edges = (ix) => [low + ix * width, ix === number - 1 ? Infinity : low + (ix + 1) * width];

  const drawHistogram = () => {
    const svg = at("histogram");
    svg.replaceChildren();
    if (!volumes.length) { text(at("histogram-note"), "No head has a volume."); return; }
    const [W, H, base] = [svg.clientWidth || 640, 92, 72];
    svg.setAttribute("viewBox", `0 0 ${W} ${H}`);
    const draw = (name, attributes, content) => {
      const node = document.createElementNS("http://www.w3.org/2000/svg", name);
      Object.entries(attributes).forEach(([k, v]) => node.setAttribute(k, v));
      if (content !== undefined) node.textContent = content;
      svg.append(node);
      return node;
    };
    const most = Math.max(...bins);
    const x = (ml) => 4 + (ml - low) / (width * number) * (W - 8);
    draw("line", { x1: 0, x2: W, y1: base, y2: base });
    bins.forEach((count, ix) => {
      const [from, to] = [low + ix * width, low + (ix + 1) * width];
      const far = report.median !== null && (to <= report.usual[0] || from >= report.usual[1]);
      const tall = count ? Math.max(2, (base - 8) * count / most) : 0;
      draw("rect", { x: x(from) + 1, y: base - tall, width: x(to) - x(from) - 2, height: tall, class: far ? "far" : "" });
      const hit = draw("rect", { x: x(from), y: 0, width: x(to) - x(from), height: base,
        class: "hit" + (bin && bin[0] === from ? " chosen" : "") });
      const title = document.createElementNS("http://www.w3.org/2000/svg", "title");
      title.textContent = `${from.toFixed(0)} to ${to.toFixed(0)} mL: ${count}`;
      hit.append(title);
      hit.onclick = () => { bin = bin && bin[0] === from ? null : edges(ix); list(); drawHistogram(); };
    });
    if (here && here.ml !== null) {
      const mid = x(here.ml);
      draw("path", { d: `M${mid} ${base} l-5 9 h10 z` });
    }
    draw("text", { x: 2, y: H - 2 }, low.toFixed(0) + " mL");
    draw("text", { x: W - 2, y: H - 2, "text-anchor": "end" }, high.toFixed(0) + " mL");
    const chosen = bin ? " Only one bar is shown: click it again for all." : " Click a bar for its heads.";
    const far = report.median === null ? "" : " Open bars are far from the median.";
    text(at("histogram-note"), "Brain volumes of " + volumes.length + " heads." + far + chosen);
  };

  // A table of marks, tabs between the cells.
  const cell = (value) => String(value).replace(/[\t\r\n]+/g, " ");
  const table = () => {
    const rows = heads.map((head) => [head.path, markOf(head), noteOf(head), head.status, fixed(head.ml, 3),
      fixed(head.score, 3)].map(cell).join("\t"));
    return ["path\tmark\tnote\tstatus\tbrain_ml\tscore", ...rows].join("\n") + "\n";
  };
  const save = () => {
    const link = make("a");
    link.href = URL.createObjectURL(new Blob([table()], { type: "text/tab-separated-values" }));
    link.download = "marks.tsv";
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  };
  const load = (content) => {
    const [header, ...lines] = content.split(/\r?\n/).filter((line) => line);
    const names = (header || "").split("\t");
    const [path, value, note] = ["path", "mark", "note"].map((name) => names.indexOf(name));
    if (path < 0 || value < 0) { alert("This table has no columns path and mark."); return; }
    const known = new Map(heads.map((head) => [cell(head.path), head]));
    let taken = 0;
    lines.forEach((line) => {
      const cells = line.split("\t");
      const head = known.get(cells[path]);
      if (!head) return;
      const mark = ["good", "bad"].includes(cells[value]) ? cells[value] : "";
      setMark(head, { mark, note: note < 0 ? "" : cells[note] || "" });
      taken += 1;
    });
    list();
    go(here);
    if (taken < lines.length) alert(`${lines.length - taken} of ${lines.length} rows are of no head on this page.`);
  };

  const cells = [make("th"), ...columns.map((column, ix) => {
    const cell = make("th");
    cell.scope = "col";
    const button = make("button", column.name);
    button.type = "button";
    button.onclick = () => {
      order = { column: ix, ascending: order.column === ix ? !order.ascending : column.ascending };
      list();
    };
    cell.append(button);
    return cell;
  })];
  at("heads").append(...cells);
  heads.forEach((head) => {
    head.haystack = [head.path, head.status, head.error || "", ...head.warnings, ...head.reasons].join(" ").toLowerCase();
    drawRow(head);
  });
  at("find").oninput = list;
  at("show").onchange = list;
  at("save").onclick = save;
  at("load").onchange = (event) => {
    const file = event.target.files[0];
    if (file) file.text().then(load);
    event.target.value = "";
  };
  at("previous").onclick = () => step(-1);
  at("next").onclick = () => step(1);
  at("good").onclick = () => mark("good");
  at("bad").onclick = () => mark("bad");
  at("clear").onclick = () => mark("");
  at("note").onchange = (event) => setMark(here, { note: event.target.value.trim() });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (["INPUT", "SELECT"].includes(event.target.tagName)) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    const keys = {
      j: () => step(1), ArrowDown: () => step(1), k: () => step(-1), ArrowUp: () => step(-1),
      g: () => mark("good"), b: () => mark("bad"), u: () => mark(""),
      n: () => step(1, (head) => !markOf(head)), s: save, "/": () => at("find").focus(),
    };
    const act = keys[event.key];
    if (act) { event.preventDefault(); act(); }
  });

  addEventListener("resize", drawHistogram);

  text(at("made"), report.made.join(" \u00b7 "));
  list();
  counts();
  go(shown[0]);
})();
