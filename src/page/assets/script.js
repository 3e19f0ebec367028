"use strict";
// Makes tables sort and filter, lets the archive's axes be chosen, and opens the panel of a step. Texts are set as text, never as HTML.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const make = (name, text, attributes) => {
    const element = document.createElement(name);
    if (text !== undefined && text !== null) element.textContent = text;
    for (const [key, value] of Object.entries(attributes || {})) element.setAttribute(key, value);
    return element;
  };

  // Tables: a click on a head sorts by its column; a second click reverses.
  const valueOf = (row, column) => {
    const cell = row.cells[column];
    if (!cell) return "";
    const text = cell.dataset.v !== undefined ? cell.dataset.v : cell.textContent.trim();
    if (text === "" || text === "none") return null;
    const number = Number(text.replace(/,/g, ""));
    return Number.isNaN(number) ? text : number;
  };
  const before = (one, other) => {
    // What has no value comes last, whatever the order.
    if (one === null || other === null) return one === other ? 0 : one === null ? Infinity : -Infinity;
    if (typeof one === "number" && typeof other === "number") return one - other;
    return String(one).localeCompare(String(other), "en", { numeric: true });
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      if (head.dataset.fixed !== undefined) return;
      const button = make("button", head.textContent, { type: "button" });
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const numeric = head.classList.contains("n");
        const was = head.getAttribute("aria-sort");
        const order = was ? (was === "descending" ? "ascending" : "descending") : numeric ? "descending" : "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", order);
        const sign = order === "ascending" ? 1 : -1;
        const rows = [...table.tBodies[0].rows].map((row) => [valueOf(row, column), row]);
        rows.sort(([one], [other]) => {
          const difference = before(one, other);
          return Number.isFinite(difference) ? sign * difference : difference;
        });
        table.tBodies[0].append(...rows.map(([, row]) => row));
      });
    });
  }

  // Filters: every word must occur in the row.
  for (const filter of document.querySelectorAll(".filter")) {
    filter.hidden = false;
    const input = filter.querySelector("input");
    const output = filter.querySelector("output");
    const rows = [...document.getElementById(input.dataset.for).tBodies[0].rows];
    const texts = rows.map((row) => row.textContent.toLowerCase());
    const apply = () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      rows.forEach((row, index) => {
        const fits = words.every((word) => texts[index].includes(word));
        row.hidden = !fits;
        if (fits) shown += 1;
      });
      output.textContent = words.length ? `${shown} of ${rows.length}` : "";
    };
    input.addEventListener("input", apply);
  }

  // A wide table can be scrolled by keyboard.
  for (const box of document.querySelectorAll(".scroll, .tree")) {
    if (box.scrollWidth > box.clientWidth || box.scrollHeight > box.clientHeight) box.tabIndex = 0;
  }

  // The archive with other axes.
  for (const box of document.querySelectorAll(".archive")) {
    const archive = data.tasks[Number(box.dataset.task)].archive;
    const selects = [box.querySelector(".across"), box.querySelector(".down")];
    box.querySelector(".axes").hidden = archive.axes.length < 2;
    const draw = () => {
      const [across, down] = selects.map((select) => Number(select.value));
      const head = make("tr");
      head.append(make("td", `${archive.axes[down].name} \\ ${archive.axes[across].name}`));
      for (const bin of archive.axes[across].bins) head.append(make("th", bin, { scope: "col" }));
      const rows = archive.axes[down].bins.map((label, row) => {
        const line = make("tr");
        line.append(make("th", label, { scope: "row" }));
        archive.axes[across].bins.forEach((_, column) => {
          const cell = make("td");
          for (const chip of archive.chips) {
            if (chip.bins[across] !== column || chip.bins[down] !== row) continue;
            const link = make("a", chip.figure, { class: "chip", title: chip.title });
            link.style.setProperty("--v", chip.rank);
            if (chip.is_listed) link.href = `#${box.dataset.prefix}-s${chip.step}`;
            cell.append(link);
          }
          line.append(cell);
        });
        return line;
      });
      const table = box.querySelector("table");
      table.tHead.replaceChildren(head);
      table.tBodies[0].replaceChildren(...rows);
    };
    selects.forEach((select) => select.addEventListener("change", draw));
  }

  // Texts: whole, or another text with edits of lines.
  const textOf = (texts, id) => {
    const stored = texts[id];
    if (typeof stored === "string") return stored;
    const lines = textOf(texts, stored[0]).split("\n");
    for (const [at, removed, added] of [...stored[1]].reverse()) lines.splice(at, removed, ...added);
    return lines.join("\n");
  };

  // The changed lines of two texts with three lines around each. Long texts are trimmed to the part that differs first.
  const differences = (old, now) => {
    const [a, b] = [old.split("\n"), now.split("\n")];
    let start = 0;
    while (start < a.length && start < b.length && a[start] === b[start]) start += 1;
    let end = 0;
    while (end < a.length - start && end < b.length - start && a[a.length - 1 - end] === b[b.length - 1 - end]) end += 1;
    const [x, y] = [a.slice(start, a.length - end), b.slice(start, b.length - end)];
    const lines = [];
    for (const line of a.slice(Math.max(0, start - 3), start)) lines.push([" ", line]);
    if (x.length * y.length > 4e6) {
      x.forEach((line) => lines.push(["-", line]));
      y.forEach((line) => lines.push(["+", line]));
    } else {
      // Longest common subsequence.
      const width = y.length + 1;
      const table = new Uint32Array((x.length + 1) * width);
      for (let i = x.length - 1; i >= 0; i -= 1) {
        for (let j = y.length - 1; j >= 0; j -= 1) {
          table[i * width + j] = x[i] === y[j] ? table[(i + 1) * width + j + 1] + 1 : Math.max(table[(i + 1) * width + j], table[i * width + j + 1]);
        }
      }
      let [i, j] = [0, 0];
      while (i < x.length || j < y.length) {
        if (i < x.length && j < y.length && x[i] === y[j]) {
          lines.push([" ", x[i]]);
          i += 1;
          j += 1;
        } else if (i < x.length && (j >= y.length || table[(i + 1) * width + j] >= table[i * width + j + 1])) {
          lines.push(["-", x[i]]);
          i += 1;
        } else {
          lines.push(["+", y[j]]);
          j += 1;
        }
      }
    }
    for (const line of a.slice(a.length - end, a.length - end + 3)) lines.push([" ", line]);
    // Only three unchanged lines stay around each change.
    const near = lines.map((_, index) => lines.slice(Math.max(0, index - 3), index + 4).some(([mark]) => mark !== " "));
    const shown = [];
    let skipped = false;
    lines.forEach((line, index) => {
      if (near[index]) {
        if (skipped) shown.push(["@", "…"]);
        skipped = false;
        shown.push(line);
      } else {
        skipped = true;
      }
    });
    return shown;
  };

  // The panel of a step.
  const panel = document.getElementById("panel");
  // Without a script an address with a step leads to its row. With one it opens the panel, and the page must stay where it is.
  for (const row of document.querySelectorAll("tr[id]")) row.removeAttribute("id");
  const CLASSES = { "+": "add", "-": "del", "@": "at", " ": "same" };
  const table = (heads, rows) => {
    const box = make("div", null, { class: "scroll" });
    const element = make("table");
    const head = make("tr");
    heads.forEach((text) => head.append(make("th", text)));
    element.createTHead().append(head);
    const body = element.createTBody();
    for (const row of rows) {
      const line = make("tr");
      row.forEach((text) => line.append(make("td", text)));
      body.append(line);
    }
    box.append(element);
    return box;
  };
  const fill = (task, number, step) => {
    const { steps, texts } = data.tasks[task];
    const order = steps.map((one) => one.step).sort((one, other) => one - other);
    const place = order.indexOf(number);
    const head = make("div", null, { class: "panel-head" });
    head.append(make("h2", `Step ${number}`, { id: "panel-title" }));
    const go = (text, label, target) => {
      const button = make("button", text, { type: "button", "aria-label": label });
      if (target === undefined) button.disabled = true;
      else button.addEventListener("click", () => location.replace(`#t${task}-s${target}`));
      head.append(button);
    };
    go("←", "Previous step", order[place - 1]);
    go("→", "Next step", order[place + 1]);
    const close = make("button", "Close", { type: "button" });
    close.addEventListener("click", () => panel.close());
    head.append(close);

    const body = make("div", null, { class: "panel-body" });
    const outcome = make("p");
    outcome.append(make("b", step.outcome), ` · ${step.made_by}`);
    for (const parent of step.parents) {
      outcome.append(" · from step ");
      const isListed = order.includes(parent);
      outcome.append(isListed ? make("a", parent, { href: `#t${task}-s${parent}` }) : String(parent));
    }
    body.append(outcome);
    if (step.change) body.append(make("p", step.change));
    if (step.reason) body.append(make("p", step.reason, { class: "notice bad" }));
    const facts = make("dl", null, { class: "facts" });
    for (const [name, value] of step.facts) {
      const row = make("div");
      row.append(make("dt", name), make("dd", value));
      facts.append(row);
    }
    body.append(facts);
    const section = (title, ...elements) => body.append(make("h3", title), ...elements);
    if (step.evidence) section("Evidence", table(["what", "value"], step.evidence));
    if (step.log) section("Log", make("pre", step.log, { class: "text" }));
    if (step.workloads) section("Workloads in the search (provisional)", table(["workload", "status", "time", "opponent", "speedup"], step.workloads));
    const kernel = step.kernel === undefined ? null : textOf(texts, step.kernel);
    if (kernel !== null && step.parent_kernel !== undefined) {
      const pre = make("pre", null, { class: "diff" });
      const lines = differences(textOf(texts, step.parent_kernel), kernel);
      for (const [mark, line] of lines) pre.append(make("span", mark + line, { class: CLASSES[mark] }), "\n");
      section(`Difference from step ${step.parents[0]}`, lines.length ? pre : make("p", "none"));
    }
    if (kernel !== null) section("Kernel", make("pre", kernel));
    (step.exchange || []).forEach((one, index) => {
      const number = step.exchange.length > 1 ? ` ${index + 1}` : "";
      const entry = (title, id) => {
        const details = make("details");
        details.append(make("summary", title));
        if (id === null) details.append(make("p", "not in this page", { class: "note" }));
        else details.addEventListener("toggle", () => {
          if (details.children.length === 1) details.append(make("pre", textOf(texts, id), { class: "text" }));
        });
        return details;
      };
      section(`Request${number}`, entry("Prompt", one.prompt), entry("Reply", one.reply));
    });
    if (step.trace) section("Trace", make("pre", step.trace, { class: "text" }));
    if (step.edits) section("Edits", make("pre", step.edits, { class: "text" }));
    section("Files", make("p", step.folder));
    panel.replaceChildren(head, body);
    panel.scrollTop = 0;
  };
  const follow = () => {
    const match = /^#t(\d+)-s(\d+)$/.exec(location.hash);
    const task = match && data.tasks && data.tasks[Number(match[1])];
    const step = task && task.steps.find((one) => one.step === Number(match[2]));
    if (!step) {
      if (panel.open) panel.close();
      return;
    }
    fill(Number(match[1]), step.step, step);
    if (!panel.open) panel.showModal();
  };
  panel.addEventListener("close", () => {
    if (/^#t\d+-s\d+$/.test(location.hash)) history.replaceState(null, "", location.pathname + location.search);
  });
  panel.addEventListener("click", (event) => {
    if (event.target === panel) panel.close();
  });
  // Choosing the same step twice does not change the hash.
  document.addEventListener("click", (event) => {
    const link = event.target.closest && event.target.closest("a[href^='#t']");
    if (link && link.getAttribute("href") === location.hash) follow();
  });
  window.addEventListener("hashchange", follow);
  follow();
})();
