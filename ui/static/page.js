(() => {
  // Gradio hides the label of the question box without tying it to the box, so screen readers would find no name; and it
  // calls the examples a list, though buttons are in it and no items.
  const root = document.documentElement, drawer = () => document.querySelector('#pa-settings');
  const open = () => root.dataset.drawer === 'open';
  const put = (element, name, value) => {
    if (element && element.getAttribute(name) !== value) element.setAttribute(name, value);
  };
  const name = () => {
    put(document.querySelector('#pa-composer textarea'), 'aria-label', 'Your question');
    document.querySelector('#pa-chat .examples[role=list]')?.removeAttribute('role');
    // Without names or parents where Gradio draws pictures: the one that opens a picture, the thumbnails of the question.
    for (const one of document.querySelectorAll('#pa-chat button:has(> .image-frame)')) {
      put(one, 'aria-label', 'Enlarge the image');
    }
    for (const one of document.querySelectorAll('#pa-composer [role=listitem]')) put(one, 'role', 'group');
    put(drawer(), 'role', 'dialog');
    put(drawer(), 'aria-label', 'Settings');
    put(drawer(), 'data-open', String(open()));
    put(document.querySelector('#pa-tabs'), 'data-beside', String(open()));
    if (drawer() && drawer().inert === open()) drawer().inert = !open();
    put(document.querySelector('[data-drawer=toggle]'), 'aria-expanded', String(open()));
  };
  // What has just been shown takes the focus a few frames later.
  const focus = (element, frames = 30) => {
    element?.focus();
    if (element && document.activeElement !== element && frames) requestAnimationFrame(() => focus(element, frames - 1));
  };
  const turn = (to) => {
    const bar = document.querySelector('#pa-header');
    if (bar) root.style.setProperty('--pa-top', `${Math.round(bar.getBoundingClientRect().bottom)}px`);
    root.dataset.drawer = to ? 'open' : 'closed';
    name();
    const next = to ? drawer()?.querySelector('[data-drawer=close]') : document.querySelector('[data-drawer=toggle]');
    focus(next);
  };
  document.addEventListener('click', (event) => {
    const act = event.target.closest?.('[data-drawer]:not(html)')?.dataset.drawer;
    if (act) turn(act === 'toggle' && !open());
  });
  document.addEventListener('keydown', (event) => {
    if (event.key === 'Escape' && open()) turn(false);
  });
  name();
  new MutationObserver(name).observe(root, {childList: true, subtree: true});
})();
