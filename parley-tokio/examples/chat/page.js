'use strict';

const BAD_NAME = 4000, NAME_TAKEN = 4001, TOO_MANY_ROOMS = 4002, POLICY_VIOLATION = 1008;  // the server's close codes
const FIRST_DELAY = 500, LAST_DELAY = 15_000;  // of reconnecting, in ms

const $ = (id) => document.getElementById(id);

let me = null;             // { room, name }, while we want to be there
let socket = null;
let retry = null;          // while we wait: { at, timer }
let why = '';              // we have lost the connection
let delay = FIRST_DELAY;
let wasIn = null;          // the room that the messages on the page are of
let lastTime = 0;          // of the last of these messages
let lastBy = null;
let people = new Set();
let typing = new Map();    // who is typing, and the timer that forgets it
let unread = 0;

// ---- the connection

function connect() {
  stopWaiting();
  state('connecting …');
  const ours = socket = new WebSocket(location.origin.replace(/^http/, 'ws') + '/chat');
  ours.onopen = () => ours.send(['join', me.room, me.name].join('\t'));
  ours.onmessage = ({ data }) => ours === socket && receive(data);
  ours.onclose = ({ code, reason }) => ours === socket && lost(code, reason);
}

function receive(line) {
  const [kind, ...words] = line.split('\t');
  switch (kind) {
    case 'here': return arrived(words[0], words.slice(1));
    case 'joined': people.add(words[0]); showPeople(); return notice(`${words[0]} joined`);
    case 'left': people.delete(words[0]); showPeople(); stopsTyping(words[0]); return notice(`${words[0]} left`);
    case 'said': return said(Number(words[0]), words[1], words.slice(2).join('\t'));
    case 'typing': return types(words[0]);
    case 'rooms': return showRooms(words);
  }
}

function arrived(room, names) {
  if (wasIn === room) {
    notice('You are back');  // what we have missed comes next, if the server has seen it
  } else {
    $('messages').replaceChildren();
    [wasIn, lastTime, lastBy] = [room, 0, null];
  }
  [delay, why] = [FIRST_DELAY, ''];
  showPeople(names);
  state('connected', true);
}

// A connection that is lost is tried again, later each time, and not by all pages at the same moment.
function lost(code, reason) {
  const refused = [BAD_NAME, TOO_MANY_ROOMS, POLICY_VIOLATION].includes(code);
  // After a cut the server may still take us for present: then our name is free again before long.
  if (refused || (code === NAME_TAKEN && wasIn !== me.room)) return leave(`The server says: ${reason}.`);
  showPeople([]);
  const wait = delay * (0.5 + Math.random() / 2);
  delay = Math.min(delay * 2, LAST_DELAY);
  why ||= code === 1001 ? 'The server is restarting.' : wasIn ? 'The connection was lost.' : 'The server does not answer.';
  retry = { at: Date.now() + wait, timer: setInterval(waitOn, 200) };
  state('reconnecting …');
  waitOn();
}

function waitOn() {
  const left = retry.at - Date.now();
  if (left <= 0) return connect();
  $('why').textContent = `${why} Trying again in ${Math.ceil(left / 1000)} s.`;
  $('away').hidden = false;
}

function stopWaiting() {
  clearInterval(retry?.timer);
  retry = null;
}

const tryNow = () => retry && connect();

function leave(problem = '') {
  stopWaiting();
  const old = socket;
  me = socket = wasIn = null;
  why = '';
  old?.close(1000);
  history.replaceState(null, '', location.pathname);
  document.title = 'Parley chat';
  $('problem').textContent = problem;
  show(false);
}

function join(room, name) {
  me = { room, name };
  history.replaceState(null, '', '#' + new URLSearchParams(me));  // a reload comes back here
  $('room').textContent = room;
  $('text').placeholder = `Say something in #${room}`;
  title();
  show(true);
  if (socket?.readyState === WebSocket.OPEN) socket.send(['join', room, name].join('\t'));
  else if (socket?.readyState !== WebSocket.CONNECTING) connect();
}

// ---- what it looks like. What others have written becomes text, never markup.

function element(tag, className, ...children) {
  const made = document.createElement(tag);
  made.className = className;
  made.append(...children);
  return made;
}

const hue = (name) => [...name].reduce((sum, c) => (sum * 31 + c.codePointAt(0)) % 360, 11);

function face(name) {
  const made = element('span', 'face', [...name][0].toUpperCase());
  made.style.setProperty('--hue', hue(name));
  return made;
}

function show(inside) {
  $('door').hidden = inside;
  $('chat').hidden = !inside;
  (inside ? $('text') : $('door').elements.name).focus();
  if (!inside) return;
  const out = element('button', '', 'Leave');
  out.onclick = () => leave();
  $('own').replaceChildren(face(me.name), element('b', '', me.name), out);
}

function state(text, on = false) {
  $('state').textContent = text;
  $('state').className = on ? 'on' : '';
  $('send').disabled = !on;
  if (on) $('away').hidden = true;
}

function title() {
  document.title = `${unread ? `(${unread}) ` : ''}#${me.room} · Parley chat`;
}

function showRooms(words) {
  const rooms = [];
  for (let i = 0; i + 1 < words.length; i += 2) {
    const [room, count] = [words[i], words[i + 1]];
    const button = element('button', '', element('span', '', room), element('small', '', count === '0' ? '' : count));
    if (room === me?.room) button.setAttribute('aria-current', 'true');
    button.onclick = () => room !== me.room && join(room, me.name);
    rooms.push(element('li', '', button));
  }
  $('rooms').replaceChildren(...rooms);
}

function showPeople(names) {
  if (names) {
    people = new Set(names);
    for (const name of typing.keys()) stopsTyping(name);
  }
  $('count').textContent = people.size ? `· ${people.size}` : '';
  $('people').replaceChildren(...[...people].sort((a, b) => a.localeCompare(b)).map((name) =>
    element('li', '', face(name), name, name === me?.name ? element('small', '', 'you') : '')));
}

function types(name) {
  clearTimeout(typing.get(name));
  typing.set(name, setTimeout(stopsTyping, 4000, name));
  showTyping();
}

function stopsTyping(name) {
  clearTimeout(typing.get(name));
  typing.delete(name);
  showTyping();
}

function showTyping() {
  const names = [...typing.keys()];
  $('typing').textContent =
    names.length === 0 ? '' : names.length > 2 ? 'Several people are typing …' :
    `${names.join(' and ')} ${names.length === 1 ? 'is' : 'are'} typing …`;
}

function add(item) {
  const list = $('messages');
  const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 60;
  list.append(item);
  if (list.children.length > 500) list.firstChild.remove();
  if (atEnd) list.scrollTop = list.scrollHeight;
}

function notice(text) {
  lastBy = null;
  add(element('li', 'notice', text));
}

function said(time, name, text) {
  stopsTyping(name);
  if (time <= lastTime) return;  // it is on the page already
  lastTime = time;
  const clock = new Date(time).toLocaleTimeString([], { hour: '2-digit', minute: '2-digit' });
  const by = element('span', 'by', element('b', '', name), clock);
  by.style.setProperty('--hue', hue(name));
  const words = element('p', '', text);
  words.dir = 'auto';
  const item = element('li', 'said', face(name), by, words);
  item.classList.toggle('mine', name === me.name);
  item.classList.toggle('more', name === lastBy);
  lastBy = name;
  add(item);
  if (document.hidden) { unread += 1; title(); }
}

// ---- what the user does

$('door').onsubmit = (event) => {
  event.preventDefault();
  const { room, name } = $('door').elements;
  join(room.value.trim(), name.value.trim());
};
$('other').onsubmit = (event) => {
  event.preventDefault();
  const { room } = $('other').elements;
  if (room.value.trim()) join(room.value.trim(), me.name);
  room.value = '';
};
$('compose').onsubmit = (event) => {
  event.preventDefault();
  const text = $('text').value.trim();
  if (!text || $('send').disabled) return;
  socket.send('say\t' + text.replace(/\p{Cc}/gu, ' '));
  $('text').value = '';
};
let saidTyping = 0;
$('text').oninput = () => {
  if ($('send').disabled || !$('text').value || Date.now() - saidTyping < 2000) return;
  saidTyping = Date.now();
  socket.send('typing');
};
$('now').onclick = tryNow;
window.addEventListener('online', tryNow);
document.addEventListener('visibilitychange', () => {
  if (document.hidden || !me) return;
  unread = 0;
  title();
  tryNow();
});

const wanted = new URLSearchParams(location.hash.slice(1));
if (wanted.get('room') && wanted.get('name')) join(wanted.get('room'), wanted.get('name'));
