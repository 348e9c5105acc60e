// The slide viewer of the Slides tab: OpenSeadragon over our tiles, layers of shapes, a scale bar. No framework.
(() => {
  "use strict";
  const at = (path) => new URL(path, document.baseURI).href;
  const state = { root: null, osd: null, id: "", info: null, layers: new Map(), off: new Set(), serial: 0, place: null };
  const find = (name) => state.root.querySelector("." + name);
  const say = (text) => { find("pav-message").textContent = text; };

  const library = () => window.OpenSeadragon ? Promise.resolve(true) : new Promise((done) => {
    const script = document.createElement("script");
    script.src = at("slides/assets/openseadragon.min.js");
    script.onload = () => done(Boolean(window.OpenSeadragon));
    script.onerror = () => done(false);
    document.head.append(script);
  });

  function attach(element) {
    state.root = element.querySelector(".pa-viewer");
    const act = {
      "zoom-in": () => zoom(1.6), "zoom-out": () => zoom(1 / 1.6), home: () => state.osd?.viewport.goHome(),
      full: () => document.fullscreenElement ? document.exitFullscreen() : find("pav-stage").requestFullscreen?.(),
    };
    for (const button of state.root.querySelectorAll("[data-act]")) {
      button.addEventListener("click", () => act[button.dataset.act]());
    }
    new ResizeObserver(draw).observe(find("pav-stage"));
  }

  function zoom(factor) {
    if (!state.osd) return;
    state.osd.viewport.zoomBy(factor);
    state.osd.viewport.applyConstraints();
  }

  // A tab that is turned to has no size yet; a viewer made in it then would not know what it shows.
  const visible = () => new Promise((done) => {
    const look = (left) => find("pav-stage").clientWidth || !left ? done() : setTimeout(look, 50, left - 1);
    look(100);
  });

  // region: x, y, width, height in pixels of the full resolution to move to, or null.
  async function show(id, region) {
    if (!state.root) return;
    if (region) {
      await visible();
      state.root.scrollIntoView({ block: "nearest" });
    }
    state.place = region || null;
    if (id === state.id) {
      await refresh();
      return move();
    }
    const serial = ++state.serial;
    state.id = id;
    state.osd?.destroy();
    state.osd = null;
    state.layers.clear();
    find("pav-plain").hidden = true;
    state.root.dataset.state = id ? "loading" : "empty";
    if (!id) { state.info = null; say("No slide is open."); return draw(); }
    say("Opening the slide…");
    const answer = await fetch(at(`slides/${id}/info.json`));
    if (serial !== state.serial) return;
    if (!answer.ok) { state.root.dataset.state = "error"; return say("This slide is not open any more; open it again."); }
    state.info = await answer.json();
    const ready = await library();
    if (serial !== state.serial) return;
    if (ready) open(id); else plain(id);
    await refresh();
  }

  function open(id) {
    const osd = state.osd = window.OpenSeadragon({
      element: find("pav-osd"), tileSources: at(`slides/${id}.dzi`), drawer: "canvas", showNavigationControl: false,
      showNavigator: find("pav-stage").clientWidth > 600, navigatorPosition: "TOP_RIGHT", maxZoomPixelRatio: 4,
      visibilityRatio: 0.5, animationTime: 0.4, gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
    });
    osd.canvas.setAttribute("role", "application");
    osd.canvas.setAttribute("aria-label",
      "Slide: arrow keys move, plus and minus zoom, 0 shows the whole slide");
    osd.addHandler("open", () => {
      state.root.dataset.state = "ready";
      const { width, height, mpp, objective } = state.info;
      say([`${width} × ${height} pixels`, mpp ? `${+mpp.toFixed(4)} µm per pixel` : "µm per pixel not stated",
        objective ? `objective ${objective}×` : ""].filter(Boolean).join(" · "));
      move();
      draw();
    });
    osd.addHandler("open-failed", () => { state.root.dataset.state = "error"; say("The slide could not be shown."); });
    let failed = 0;
    osd.addHandler("tile-load-failed", () => say(`${++failed} part(s) of this slide could not be read; the file may be damaged.`));
    for (const event of ["animation", "animation-finish", "resize", "update-viewport"]) osd.addHandler(event, draw);
  }

  // Once: the region in the middle, with as much around it on each side.
  function move() {
    const item = state.osd?.world.getItemAt(0);
    if (!item || !state.place) return;
    const [x, y, width, height] = state.place;
    state.place = null;
    state.osd.viewport.fitBounds(item.imageToViewportRectangle(x - width, y - height, 3 * width, 3 * height), true);
    draw();
  }

  function plain(id) {
    const image = find("pav-plain");
    image.src = at(`slides/${id}/thumbnail.jpeg?side=2048`);
    image.hidden = false;
    image.onload = () => { state.root.dataset.state = "plain"; draw(); };
    say("The zooming viewer is not installed, so the whole slide is shown as one picture. " +
      "To install it run: pathassist doctor --fix");
  }

  async function refresh() {
    if (!state.id) return;
    const serial = state.serial;
    const answer = await fetch(at(`slides/${state.id}/info.json`));
    if (!answer.ok || serial !== state.serial) return;
    state.info = await answer.json();
    const layers = new Map();
    for (const name of Object.keys(state.info.layers)) {
      const got = await fetch(at(`slides/${state.id}/shapes.json?layer=${encodeURIComponent(name)}`));
      if (got.ok) layers.set(name, prepare((await got.json()).shapes));
    }
    if (serial !== state.serial) return;
    state.layers = layers;
    list();
    draw();
  }

  // One path for each colour: thousands of outlines are then drawn at once.
  function prepare(shapes) {
    const groups = new Map();
    for (const { geometry, label, colour } of shapes) {
      const key = colour.join(",");
      if (!groups.has(key)) groups.set(key, { colour: key, labels: new Set(), path: new Path2D(), points: [], count: 0 });
      const group = groups.get(key);
      group.labels.add(label);
      group.count += 1;
      const kind = geometry.type, c = geometry.coordinates;
      if (kind === "Point") group.points.push(c);
      else if (kind === "MultiPoint") group.points.push(...c);
      else for (const line of { LineString: [c], MultiLineString: c, Polygon: c, MultiPolygon: c.flat() }[kind] || []) {
        line.forEach(([x, y], index) => index ? group.path.lineTo(x, y) : group.path.moveTo(x, y));
      }
    }
    return [...groups.values()];
  }

  function list() {
    const box = find("pav-layers");
    box.hidden = state.layers.size === 0;
    box.querySelectorAll("label").forEach((label) => label.remove());
    for (const [name, groups] of state.layers) {
      const label = document.createElement("label"), input = document.createElement("input");
      input.type = "checkbox";
      input.checked = !state.off.has(name);
      input.addEventListener("change", () => { input.checked ? state.off.delete(name) : state.off.add(name); draw(); });
      const total = groups.reduce((sum, group) => sum + group.count, 0);
      label.append(input, ` ${name} (${total}) `);
      for (const { colour, labels } of groups.slice(0, 8)) {
        const mark = document.createElement("span");
        mark.className = "pav-swatch";
        mark.style.setProperty("--colour", `rgb(${colour})`);
        const text = [...labels].slice(0, 3).join(", ");
        mark.textContent = text === name ? "" : text;
        label.append(mark);
      }
      box.append(label);
    }
    const link = find("pav-export");
    link.hidden = state.layers.size === 0;
    link.href = at(`slides/${state.id}/annotations.geojson`);
  }

  // Where the slide lies on the stage: pixels of the screen for one of the slide, and its corner.
  function place() {
    const stage = find("pav-stage");
    if (state.osd?.world.getItemCount()) {
      const item = state.osd.world.getItemAt(0);
      const corner = item.imageToViewerElementCoordinates(new OpenSeadragon.Point(0, 0));
      const far = item.imageToViewerElementCoordinates(new OpenSeadragon.Point(state.info.width, 0));
      return { x: corner.x, y: corner.y, scale: (far.x - corner.x) / state.info.width };
    }
    const image = find("pav-plain");
    if (!state.info || image.hidden) return null;
    const scale = Math.min(stage.clientWidth / state.info.width, stage.clientHeight / state.info.height);
    return { scale, x: (stage.clientWidth - scale * state.info.width) / 2,
      y: (stage.clientHeight - scale * state.info.height) / 2 };
  }

  function draw() {
    const stage = find("pav-stage"), canvas = find("pav-overlay"), ratio = window.devicePixelRatio || 1;
    const width = stage.clientWidth, height = stage.clientHeight;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
    }
    const pen = canvas.getContext("2d");
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, canvas.width, canvas.height);
    const where = place();
    bar(where);
    if (!where) return;
    pen.setTransform(where.scale * ratio, 0, 0, where.scale * ratio, where.x * ratio, where.y * ratio);
    for (const [name, groups] of state.layers) {
      if (state.off.has(name)) continue;
      for (const { colour, path, points } of groups) {
        pen.strokeStyle = `rgb(${colour})`;
        pen.fillStyle = `rgba(${colour},.16)`;
        pen.lineWidth = 2 / where.scale;
        pen.fill(path, "evenodd");
        pen.stroke(path);
        pen.fillStyle = `rgb(${colour})`;
        for (const [x, y] of points) {
          pen.beginPath();
          pen.arc(x, y, 4 / where.scale, 0, 7);
          pen.fill();
        }
      }
    }
  }

  function bar(where) {
    const box = find("pav-scale");
    box.hidden = !(where && state.info?.mpp);
    if (box.hidden) return;
    const unit = state.info.mpp / where.scale, limit = 120 * unit, power = 10 ** Math.floor(Math.log10(limit));
    const length = power * [5, 2, 1].find((step) => step * power <= limit);
    box.style.width = `${length / unit}px`;
    const shown = length >= 1000 ? `${length / 1000} mm` : `${+length.toPrecision(2)} µm`;
    box.textContent = shown;
    box.setAttribute("aria-label", `Scale bar: ${shown}`);
  }

  // What is to be seen, in pixels of the full resolution, as JSON; empty without a slide.
  function view() {
    const where = state.root && state.info ? place() : null;
    if (!where) return "";
    const stage = find("pav-stage"), clamp = (value, top) => Math.max(0, Math.min(top, value));
    const x0 = clamp(-where.x / where.scale, state.info.width), y0 = clamp(-where.y / where.scale, state.info.height);
    const x1 = clamp((stage.clientWidth - where.x) / where.scale, state.info.width);
    const y1 = clamp((stage.clientHeight - where.y) / where.scale, state.info.height);
    return JSON.stringify({ x: x0, y: y0, width: x1 - x0, height: y1 - y0, scale: where.scale * (window.devicePixelRatio || 1) });
  }

  const attached = () => Boolean(state.root?.isConnected);
  window.paViewer = { attach, attached, show, refresh, view, viewer: () => state.osd };
})();
