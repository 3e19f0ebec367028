"use strict";
// Watches the page, uses it as a reader would, and prints what is wrong, or `ok`.
const wrong = [];
const expect = (holds, text) => { if (!holds) wrong.push(text); };
window.addEventListener("error", (event) => wrong.push(`script error: ${event.message}`));
document.addEventListener("securitypolicyviolation", (event) => wrong.push(`blocked: ${event.violatedDirective}`));

// Waits until something holds, for at most 20 seconds: a dialog reports that it closed only with the next frame.
const until = async (holds) => {
  for (let attempt = 0; attempt < 1000 && !holds(); attempt += 1) await new Promise((resolve) => setTimeout(resolve, 20));
  return holds();
};

const channels = (colour) => {
  const numbers = colour.match(/-?[\d.]+(e-?\d+)?/g).map(Number);
  const scale = colour.startsWith("color(") ? 1 : 255;
  const alpha = numbers.length > 3 ? numbers[3] : 1;
  return { rgb: numbers.slice(0, 3).map((number) => number / scale), alpha };
};
const luminance = (rgb) => {
  const linear = rgb.map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
  return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
};
const over = (top, alpha, below) => top.map((value, index) => value * alpha + below[index] * (1 - alpha));
const background = (element) => {
  if (!element) return [1, 1, 1];
  const { rgb, alpha } = channels(getComputedStyle(element).backgroundColor);
  return alpha === 1 ? rgb : over(rgb, alpha, background(element.parentElement));
};
// WCAG AA: 4.5 to 1, and 3 to 1 for large text.
const checkContrast = () => {
  const seen = new Set();
  for (const element of document.querySelectorAll("body *")) {
    const hasText = [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim());
    if (!hasText || element.closest("script, style, svg, .skip") || !element.getClientRects().length) continue;
    const style = getComputedStyle(element);
    const behind = background(element);
    let { rgb, alpha } = channels(style.color);
    for (let one = element; one; one = one.parentElement) alpha *= Number(getComputedStyle(one).opacity);
    rgb = over(rgb, alpha, behind);
    const [light, dark] = [luminance(rgb), luminance(behind)].sort((one, other) => other - one);
    const ratio = (light + 0.05) / (dark + 0.05);
    const size = parseFloat(style.fontSize);
    const needed = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700) ? 3 : 4.5;
    const name = `${element.tagName}.${element.className}`;
    if (ratio < needed && !seen.has(name)) {
      seen.add(name);
      wrong.push(`contrast ${ratio.toFixed(2)} of ${name}: ${element.textContent.trim().slice(0, 30)}`);
    }
  }
};

const checks = async () => {
  const panel = document.getElementById("panel");
  expect(!panel.open, "the panel is open at the start");

  // An entry of the archive opens its kernel.
  const chip = document.querySelector("a.chip[href]");
  expect(chip, "the archive has no entry");
  chip.scrollIntoView({ behavior: "instant" });
  const place = window.scrollY;
  chip.click();
  expect(await until(() => panel.open), "an entry of the archive opens no panel");
  expect(panel.textContent.includes("__global__"), "the panel has no kernel");
  expect(panel.querySelectorAll("dt").length > 3, "the panel has no facts");
  const title = panel.querySelector("h2").textContent;
  const next = [...panel.querySelectorAll("button")].find((button) => !button.disabled && button.textContent !== "Close");
  next.click();
  expect(await until(() => panel.open && panel.querySelector("h2").textContent !== title), "the arrows lead nowhere");
  checkContrast();
  [...panel.querySelectorAll("button")].find((button) => button.textContent === "Close").click();
  expect(await until(() => !panel.open && location.hash === ""), "the panel does not close");
  expect(window.scrollY === place, "the page behind the panel moves");

  // A step with a parent shows a difference.
  const steps = [...document.querySelectorAll("table[id$=-steps] tbody tr")];
  const child = steps.find((row) => row.cells[6].textContent.trim() && row.cells[1].textContent === "passed");
  if (child) {
    child.querySelector("a").click();
    const hasDifference = () => panel.open && panel.querySelector(".diff .add, .diff .del");
    expect(await until(hasDifference), "no difference is shown");
    panel.close();
    expect(await until(() => !panel.open && location.hash === ""), "the panel does not close again");
  }

  // A head sorts its table, and reverses it.
  const table = document.querySelector("table[id$=-steps]");
  const numbers = () => [...table.tBodies[0].rows].map((row) => Number(row.cells[0].textContent));
  const sorted = (values, sign) => values.every((value, index) => index === 0 || sign * (value - values[index - 1]) >= 0);
  const button = table.tHead.querySelector("button");
  button.click();
  expect(sorted(numbers(), -1), "the table does not sort");
  button.click();
  expect(sorted(numbers(), 1), "the table does not reverse");

  // The filter hides what lacks a word.
  const filter = document.querySelector(".filter input");
  filter.value = "start";
  filter.dispatchEvent(new Event("input"));
  const shown = [...table.tBodies[0].rows].filter((row) => !row.hidden);
  expect(shown.length > 0 && shown.length < numbers().length, "the filter does not filter");

  // Other axes of the archive.
  const down = document.querySelector("select.down");
  const chips = document.querySelectorAll("a.chip").length;
  down.selectedIndex = (down.selectedIndex + 1) % down.options.length;
  down.dispatchEvent(new Event("change"));
  expect(document.querySelectorAll("a.chip").length === chips, "entries are lost with other axes");

  // The charts.
  for (const choice of document.querySelectorAll(".charts input")) {
    choice.click();
    const visible = [...document.querySelectorAll(".chart")].filter((chart) => chart.getClientRects().length);
    expect(visible.length === 1, "more or less than one chart is shown");
  }

  checkContrast();
  expect(document.documentElement.scrollWidth <= window.innerWidth, "the page is wider than the window");
  const requests = performance.getEntriesByType("resource");
  expect(requests.length === 0, `requests: ${requests.map((one) => one.name).join(", ")}`);
};

window.addEventListener("load", async () => {
  try {
    await checks();
  } catch (error) {
    wrong.push(`${error}`);
  }
  console.log(`checks say: ${wrong.length ? wrong.join("\n") : "ok"} (end)`);
});
