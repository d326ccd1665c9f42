// What the page does in the browser. Gradio runs this once, as the body of a function: `element` is the answer, `trigger` sends
// an event to Python, `upload` sends a file to the server, `props` are the values that layout.py gives.

document.documentElement.lang = props.lang;
const wanted = new URLSearchParams(location.search).get('lang');
if (wanted) document.cookie = `language=${wanted}; path=/; max-age=31536000; samesite=lax`; // server.py reads it
// On the English page, two characters of the switch are no reason to load a large font before the first answer is seen.
setTimeout(() => document.querySelector('.top nav').classList.add('drawn'), props.lang === 'en' ? 3000 : 0);
const text = (key, values = {}) => props.texts[key].replace(/{(\w+)}/g, (_, name) => values[name]);

// The visitor's choice: an image of the list, or uploads. layout.py reads it when a request is sent and not when the visitor
// clicks: of several clicks Gradio sends the last one after the answer to the first, with the data of the first.
const choice = (window.choice = { index: props.first ?? null, files: [] });
let turn = 0; // number of the last choice: an upload that arrives after a later choice is ignored

function choose(index, files = []) {
  turn += 1;
  Object.assign(choice, { index, files });
  say('');
  mark();
  trigger('select');
  setTimeout(reveal, 150); // after the tab has changed
}

function reveal() {
  // On a narrow screen the answer stands below the examples.
  const answer = document.querySelector('#answer');
  const { top } = answer.getBoundingClientRect();
  const calm = matchMedia('(prefers-reduced-motion: reduce)').matches;
  if (top < 0 || top > innerHeight / 2) answer.scrollIntoView({ behavior: calm ? 'auto' : 'smooth' });
}

function mark() {
  for (const button of document.querySelectorAll('[data-index]')) {
    const chosen = Number(button.dataset.index) === choice.index;
    button.classList.toggle('chosen', chosen);
    button.setAttribute('aria-pressed', chosen);
  }
}
document.addEventListener('mark', mark); // sent when a grid has changed
mark();

document.addEventListener('click', event => {
  const button = event.target.closest('[data-index]');
  if (button) choose(Number(button.dataset.index));
});

// ---- uploads: chosen, dropped anywhere, or pasted; each replaces the one before

const say = message => (document.querySelector('#upload [role=status]').textContent = message);

async function take(files) {
  files = [...files];
  if (!files.length) return;
  const { limit, most } = document.querySelector('#upload .drop').dataset;
  const large = files.find(file => file.size > limit);
  if (files.length > most) return say(text('too_many', { count: files.length, most }));
  if (large) return say(text('too_large', { name: large.name, limit: limit / 2 ** 20 }));
  const mine = (turn += 1);
  say(text('sending'));
  try {
    const sent = [];
    for (const file of files) {
      if (files.length > 1) say(text('sending_of', { number: sent.length + 1, count: files.length }));
      sent.push({ path: (await upload(file)).path, orig_name: file.name, meta: { _type: 'gradio.FileData' } });
      if (mine !== turn) return;
    }
    choose(null, sent);
  } catch (error) {
    if (mine === turn) say(text('not_sent', { name: files[0].name, error: error.message ?? error }));
  }
}

document.addEventListener('change', event => {
  if (!event.target.matches('#upload input')) return;
  take(event.target.files);
  event.target.value = ''; // the same file can be chosen again
});
document.addEventListener('dragover', event => event.preventDefault());
document.addEventListener('drop', event => {
  event.preventDefault(); // the browser would leave the page to show the image
  take(event.dataTransfer.files);
});
document.addEventListener('paste', event => take(event.clipboardData.files));

// ---- heat maps are saved as PNG

document.addEventListener('click', event => {
  const link = event.target.closest('a[download^=heat_map]');
  if (!link) return;
  const image = link.closest('figure').querySelector('img');
  const canvas = Object.assign(document.createElement('canvas'), { width: image.naturalWidth, height: image.naturalHeight });
  canvas.getContext('2d').drawImage(image, 0, 0);
  link.href = canvas.toDataURL();
});

// ---- arrow keys move through a grid

document.addEventListener('keydown', event => {
  const button = event.target.closest('[data-index]');
  if (!button) return;
  const all = [...button.parentElement.children];
  const across = getComputedStyle(button.parentElement).gridTemplateColumns.split(' ').length;
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -across, ArrowDown: across, Home: -Infinity, End: Infinity };
  if (!(event.key in steps)) return;
  event.preventDefault();
  const step = steps[event.key];
  const end = Number.isFinite(step) ? button : all.at(step < 0 ? 0 : -1);
  (all[all.indexOf(button) + step] ?? end).focus();
});

// ---- the server: says that it has stopped, and reloads the page when another one has started in its place

let known = null;
setInterval(async () => {
  if (document.hidden) return;
  const found = await fetch('gradio_api/app_id').then(reply => reply.json()).then(reply => reply.app_id).catch(() => null);
  document.querySelector('#lost').hidden = found !== null;
  known ??= found;
  if (found !== null && found !== known) location.reload();
}, 2000);
