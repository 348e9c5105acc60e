// Painting over the picture of the question. The strokes are kept as text, "brush R: x,y x,y; R: x,y" in pixels of the
// picture, in the field Region, where they can be read, written and sent like the corners of a box. No framework.
const states = new WeakMap();
const paint = () => element.querySelector(".pa-paint canvas");
const field = () => document.querySelector("#pa-region textarea, #pa-region input");
const short = (value, whole) => String(whole ? Math.round(value) : Math.round(value * 10) / 10);

function stateOf(canvas) {
  if (states.get(canvas)?.version !== canvas.dataset.version) {
    const { version } = canvas.dataset;
    const [width, height] = [Number(canvas.dataset.width), Number(canvas.dataset.height)];
    states.set(canvas, { version, width, height, x: width / 2, y: height / 2, strokes: read(canvas.dataset.strokes), open: null });
  }
  return states.get(canvas);
}

const bar = () => element.querySelector(".pa-paint input[type=range]");
const radiusOf = (state) => Math.max(1, Number(bar().value) / 100 * Math.max(state.width, state.height));

function read(text) {
  if (!/^\s*brush/i.test(text)) return [];
  return text.trim().slice(5).split(";").map((part) => {
    const [radius, points] = part.split(":");
    return { radius: Number(radius), points: (points ?? "").trim().split(/\s+/).map((p) => p.split(",").map(Number)) };
  }).filter((stroke) => stroke.radius > 0 && stroke.points.every((p) => p.length === 2 && p.every(Number.isFinite)));
}

const write = (strokes) => strokes.length
  ? "brush " + strokes.map((s) => `${short(s.radius)}: ${s.points.map((p) => p.map((v) => short(v, s.radius >= 4)).join(",")).join(" ")}`).join("; ")
  : "";

function draw(canvas) {
  const state = stateOf(canvas), pen = canvas.getContext("2d"), scale = canvas.width / state.width;
  pen.clearRect(0, 0, canvas.width, canvas.height);
  pen.strokeStyle = pen.fillStyle = "#ffd54a";
  pen.lineCap = pen.lineJoin = "round";
  for (const { radius, points } of [...state.strokes, ...(state.open ? [state.open] : [])]) {
    pen.lineWidth = 2 * radius * scale;
    pen.beginPath();
    points.forEach(([x, y], n) => (n ? pen.lineTo(x * scale, y * scale) : pen.moveTo(x * scale, y * scale)));
    if (points.length === 1) pen.lineTo(points[0][0] * scale + 0.01, points[0][1] * scale);
    pen.stroke();
  }
  ring(canvas);
}

// The brush itself, as a ring; for the keyboard it is the only sign of where one is.
function ring(canvas) {
  const state = stateOf(canvas), mark = element.querySelector(".pa-brush");
  const size = 200 * radiusOf(state) / state.width;
  Object.assign(mark.style, { left: `${100 * state.x / state.width}%`, top: `${100 * state.y / state.height}%`,
    width: `${size}%` });
  mark.dataset.down = state.open ? "yes" : "no";
}

function tell(canvas) {
  const input = field();
  if (!input) return;
  const kind = input.tagName === "TEXTAREA" ? HTMLTextAreaElement : HTMLInputElement;
  Object.getOwnPropertyDescriptor(kind.prototype, "value").set.call(input, write(stateOf(canvas).strokes));
  input.dispatchEvent(new Event("input", { bubbles: true }));
}

function go(state, x, y) {
  state.x = Math.min(Math.max(0, x), state.width);
  state.y = Math.min(Math.max(0, y), state.height);
  if (!state.open) return;
  const [lastX, lastY] = state.open.points[state.open.points.length - 1];
  if (Math.hypot(state.x - lastX, state.y - lastY) >= state.open.radius / 3) state.open.points.push([state.x, state.y]);
}

const begin = (state) => { state.open = { radius: radiusOf(state), points: [[state.x, state.y]] }; };

function end(canvas) {
  const state = stateOf(canvas);
  if (!state.open) return;
  state.strokes.push(state.open);
  state.open = null;
  draw(canvas);
  tell(canvas);
}

function back(canvas) {
  const state = stateOf(canvas);
  if (state.open) state.open = null;
  else state.strokes.pop();
  draw(canvas);
  tell(canvas);
}

function size(canvas, step) {
  bar().value = String(Number(bar().value) + step);
  draw(canvas);
}

const place = (canvas, event) => {
  const box = canvas.getBoundingClientRect(), state = stateOf(canvas);
  return [(event.clientX - box.left) / box.width * state.width, (event.clientY - box.top) / box.height * state.height];
};

element.addEventListener("pointerdown", (event) => {
  const canvas = paint();
  if (event.target !== canvas || event.button) return;
  canvas.setPointerCapture(event.pointerId);
  const state = stateOf(canvas);
  state.open = null;
  go(state, ...place(canvas, event));
  begin(state);
  draw(canvas);
});
element.addEventListener("pointermove", (event) => {
  const canvas = paint();
  if (event.target !== canvas) return;
  go(stateOf(canvas), ...place(canvas, event));
  draw(canvas);
});
for (const name of ["pointerup", "pointercancel"]) {
  element.addEventListener(name, (event) => { if (event.target === paint()) end(paint()); });
}
element.addEventListener("input", (event) => { if (event.target === bar()) draw(paint()); });
element.addEventListener("click", (event) => { if (event.target.closest?.("[data-act=undo]")) back(paint()); });
element.addEventListener("focusin", (event) => { if (event.target === paint()) draw(paint()); });
element.addEventListener("focusout", (event) => { if (event.target === paint()) end(paint()); });
element.addEventListener("keydown", (event) => {
  const canvas = paint();
  if (event.target !== canvas || event.ctrlKey || event.metaKey || event.altKey) return;
  const state = stateOf(canvas), far = Math.max(state.width, state.height) / (event.shiftKey ? 10 : 50);
  const ways = { ArrowLeft: [-far, 0], ArrowRight: [far, 0], ArrowUp: [0, -far], ArrowDown: [0, far] };
  if (ways[event.key]) { go(state, state.x + ways[event.key][0], state.y + ways[event.key][1]); draw(canvas); }
  else if (event.key === " " || event.key === "Enter") { if (state.open) end(canvas); else { begin(state); draw(canvas); } }
  else if (event.key === "Backspace" || event.key === "Delete") back(canvas);
  else if (event.key === "+" || event.key === "=") size(canvas, 1);
  else if (event.key === "-") size(canvas, -1);
  else return;
  event.preventDefault();
});
// A new picture comes with the strokes that are written in the field; the page may put it into the same canvas.
new MutationObserver(() => {
  const canvas = paint();
  if (canvas && states.get(canvas)?.version !== canvas.dataset.version) draw(canvas);
}).observe(element, { childList: true, subtree: true, attributes: true, attributeFilter: ["data-version"] });
if (paint()) draw(paint());
