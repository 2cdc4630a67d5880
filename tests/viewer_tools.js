// Functions for the steps of test_viewer.py
const q = (selector) => document.querySelector(selector);
const wait = async () => {
  do await new Promise((done) => setTimeout(done, 30));
  while (q("#viewer").getAttribute("aria-busy") !== "false");
};
const all = (selector, from = document) => [...from.querySelectorAll(selector)];
const layers = (pane = 0) => all(".layers > *", all(".pane")[pane]).map((one) => one.dataset.layer);
const key = async (name, more = {}) => {
  q("#viewer").dispatchEvent(new KeyboardEvent("keydown", { key: name, bubbles: true, ...more }));
  await wait();
};
const click = async (selector) => {
  q(selector).click();
  await wait();
};
const set = async (selector, value, event) => {
  q(selector).value = value;
  q(selector).dispatchEvent(new Event(event));
  await wait();
};
const svg = q(".pane svg");
svg.setPointerCapture = () => {};
const point = async (kind, x, y) => {
  const shown = new DOMPoint(x + 0.5, y + 0.5).matrixTransform(svg.getScreenCTM());
  const at = { clientX: shown.x, clientY: shown.y };
  svg.dispatchEvent(new PointerEvent(`pointer${kind}`, { ...at, bubbles: true, pointerId: 1 }));
  await wait();
};
const place = () => q("#viewer-place").textContent;
const view = () => svg.getAttribute("viewBox").split(" ").map(Number);
const described = () => q("#viewer-cell").innerText;
const rows = () => all("#viewer-table tbody tr").map((one) => one.dataset.cell);
