/**
 * The tables of the protocol and the examination of one frame.
 * Nothing here knows about connections.
 */

export const SUBPROTOCOL = 'holdfast.v1.json';
export const MAX_DEPTH = 64;
export const MIN_MAX_FRAME = 4096;

/** @typedef {{[member: string]: unknown}} Frame */

/** @typedef {{from: 'client' | 'server' | 'both', profile: string, starts?: boolean}} TypeRow */

/** Every type of version 1, the reserved ones included. @type {Map<string, TypeRow>} */
export const TYPES = new Map([
  ['hello', { from: 'client', profile: 'core' }],
  ['welcome', { from: 'server', profile: 'core' }],
  ['result', { from: 'server', profile: 'core' }],
  ['error', { from: 'server', profile: 'core' }],
  ['cancel', { from: 'client', profile: 'core' }],
  ['auth', { from: 'client', profile: 'core', starts: true }],
  ['ping', { from: 'both', profile: 'core' }],
  ['pong', { from: 'both', profile: 'core' }],
  ['goaway', { from: 'server', profile: 'core' }],
  ['request', { from: 'client', profile: 'rpc', starts: true }],
  ['chunk', { from: 'server', profile: 'rpc' }],
  ['subscribe', { from: 'client', profile: 'pubsub', starts: true }],
  ['open', { from: 'server', profile: 'pubsub' }],
  ['event', { from: 'server', profile: 'pubsub' }],
  ['gap', { from: 'server', profile: 'pubsub' }],
  ['publish', { from: 'client', profile: 'pubsub', starts: true }],
  ['ack', { from: 'client', profile: 'ack' }],
  ['history', { from: 'client', profile: 'history', starts: true }],
  ['synced', { from: 'server', profile: 'state' }],
  ['present', { from: 'client', profile: 'presence', starts: true }],
]);

/** Members of client frames that belong to another profile than their type: member, profile. */
const MEMBERS = {
  subscribe: [
    ['pattern', 'pattern'],
    ['since', 'history'],
    ['last', 'history'],
    ['recover', 'history'],
    ['state', 'state'],
    ['view', 'presence'],
  ],
  publish: [
    ['dedupe', 'history'],
    ['key', 'state'],
    ['removed', 'state'],
  ],
};

/** The profiles that this server offers, and what each needs. */
const OFFERED = new Map([
  ['rpc', []],
  ['pubsub', []],
  ['pattern', ['pubsub']],
  ['fence', ['pubsub']],
  ['ack', []],
  ['resume', ['ack']],
  ['history', ['pubsub']],
]);

/** Limits that `welcome` shows with a profile only. @type {{[limit: string]: string}} */
const LIMIT_PROFILES = {
  queue: 'pubsub', queue_bytes: 'pubsub',
  window: 'ack', window_bytes: 'ack', ack_delay_ms: 'ack',
  resume_ms: 'resume',
  dedupe_ms: 'history', history_limit: 'history',
};

/** Codes that a server of this edition may send without a dot in them. */
const ERROR_CODES = new Set([
  'unsupported', 'bad_request', 'rate_limited', 'draining', 'limit_exceeded', 'unauthenticated',
  'forbidden', 'not_found', 'principal_mismatch', 'conflict', 'too_large', 'unavailable',
  'internal', 'deadline_exceeded', 'cancelled', 'app', 'unrecoverable', 'bad_cursor',
]);
const RETRYABLE = new Set(['rate_limited', 'unavailable', 'draining']);
const NEVER_RETRYABLE = new Set([
  'bad_request', 'unsupported', 'not_found', 'unauthenticated', 'forbidden',
  'principal_mismatch', 'conflict', 'too_large', 'unrecoverable', 'bad_cursor',
]);

/** Names of the close codes, sent as the reason. */
export const CLOSE_NAMES = new Map([
  [1000, 'normal'], [1001, 'going_away'], [1002, 'protocol_error'], [1003, 'unsupported_data'],
  [1007, 'invalid_payload'], [1008, 'policy_violation'], [1009, 'message_too_big'],
  [1010, 'mandatory_extension'], [1011, 'internal_error'], [1012, 'service_restart'],
  [1013, 'try_again_later'], [1014, 'bad_gateway'], [4000, 'protocol_error'], [4001, 'bad_frame'],
  [4002, 'unexpected_frame'], [4003, 'bad_id'], [4004, 'bad_ack'], [4005, 'bad_schema'],
  [4008, 'superseded'], [4100, 'token_expired'], [4101, 'unauthenticated'], [4102, 'forbidden'],
  [4103, 'revoked'], [4200, 'going_away'], [4300, 'internal'], [4301, 'slow_consumer'],
  [4302, 'rate_limited'], [4303, 'hello_timeout'], [4304, 'heartbeat_timeout'],
]);

/** Close codes that end the session, besides most of 40xx; 1005 stands for a close frame without a code. */
const ENDING = new Set([1000, 1002, 1003, 1005, 1007, 1008, 1009, 1010, 4102, 4103, 4301, 4501]);

/** Whether the session outlives a connection that ends with this code. @param {number} code */
export const keepsSession = (code) => !ENDING.has(code) && (code < 4000 || code > 4099 || code === 4008);

/** An outcome of one exchange that is not a `result`. */
export class Failure extends Error {
  /**
   * @param {string} code
   * @param {string} [message]
   * @param {{retry_ms?: number, data?: unknown}} [details]
   */
  constructor(code, message = '', { retry_ms, data } = {}) {
    super(message);
    this.code = code;
    this.retryMs = RETRYABLE.has(code) ? (retry_ms ?? 0) : NEVER_RETRYABLE.has(code) ? undefined : retry_ms;
    this.data = data;
  }
}

// --- values ---------------------------------------------------------------

const WORDS = /^[a-z][a-z0-9_]*(\.[a-z0-9_]+)*$/;

/** @param {unknown} v @returns {v is {[key: string]: unknown}} */
export const isObject = (v) => typeof v === 'object' && v !== null && !Array.isArray(v);

/** @param {unknown} v @param {number} min @param {number} max @returns {v is number} */
export const isInteger = (v, min, max) => Number.isInteger(v) && /** @type {number} */ (v) >= min && /** @type {number} */ (v) <= max;

/** @param {unknown} v @returns {v is number} */
export const isId = (v) => isInteger(v, 1, Number.MAX_SAFE_INTEGER);

/** @param {unknown} v @param {number} max in bytes of UTF-8 @returns {v is string} */
const isText = (v, max) => typeof v === 'string' && v.isWellFormed() && Buffer.byteLength(v) <= max;

/** A channel or a method. @param {unknown} v @returns {v is string} */
export const isName = (v) => v !== '' && isText(v, 255);

/** @param {unknown} v @returns {v is string} */
export const isType = (v) => typeof v === 'string' && v.length <= 64 && WORDS.test(v);

/** A code that may stand in `error.code`. @param {unknown} v @returns {v is string} */
export const isErrorCode = (v) => isType(v) && (v.includes('.') || ERROR_CODES.has(v));

/** @param {unknown} v @returns {v is string} */
const isCursor = (v) => v !== '' && isText(v, 256);

/** @param {unknown} v @returns {v is string} */
const isPattern = (v) => {
  if (!isName(v)) return false;
  const segments = v.split('/');
  const deep = segments.indexOf('**');
  return !segments.includes('') && (deep < 0 || deep === segments.length - 1);
};

/** @param {unknown} v */
const isBase64 = (v) => typeof v === 'string' && v.length % 4 === 0 && /^[A-Za-z0-9+/]*={0,2}$/.test(v);

/** Whether a number became infinite on reading: it could not be written again. @param {unknown} v @returns {boolean} */
const overflowed = (v) => {
  if (typeof v === 'number') return !Number.isFinite(v);
  return typeof v === 'object' && v !== null && Object.values(v).some(overflowed);
};

// --- frames ---------------------------------------------------------------

/** @param {object} frame @param {string} member */
export const has = (frame, member) => Object.hasOwn(frame, member);

/** @param {object} frame @param {string} member @param {(v: unknown) => boolean} test */
const may = (frame, member, test) => !has(frame, member) || test(/** @type {Frame} */ (frame)[member]);

/** @param {Frame} f */
const goodData = (f) =>
  may(f, 'enc', (enc) => enc === 'base64' && isBase64(f.data)) && !overflowed(f.data);

/** @param {unknown} v */
const isString = (v) => typeof v === 'string';

/** Whether a `hello` gets a profile. @param {Frame} f @param {string} profile */
const asksFor = (f, profile) => negotiate(/** @type {string[]} */ (f.profiles)).includes(profile);

/** @param {unknown} v */
const isResume = (v) =>
  isObject(v) && isCursor(v.session) && (v.seq === 0 || isId(v.seq)) && isId(v.attempt);

/** What each type of a client asks for, besides `type`, `id` and `meta`. @type {{[type: string]: (f: Frame) => boolean}} */
const SHAPES = {
  hello: (f) =>
    Array.isArray(f.profiles) && f.profiles.every(isString) &&
    may(f, 'auth', (a) => isObject(a) && isString(a.token) && may(a, 'scheme', isString)) &&
    may(f, 'client', (c) => isObject(c) && may(c, 'name', isString) && may(c, 'version', isString)) &&
    may(f, 'limits', (l) => isObject(l) &&
      may(l, 'max_frame', (n) => isInteger(n, MIN_MAX_FRAME, Number.MAX_SAFE_INTEGER)) &&
      (!asksFor(f, 'ack') || may(l, 'window', isId))) &&
    (!asksFor(f, 'resume') || may(f, 'resume', isResume)),
  ack: () => true, // `seq` is looked at before
  cancel: () => true,
  ping: (f) => may(f, 't', (t) => isText(t, 64)),
  pong: (f) => may(f, 't', (t) => isText(t, 64)),
  auth: (f) => isString(f.token) && may(f, 'scheme', isString),
  request: (f) =>
    isName(f.method) && may(f, 'stream', (s) => s === true) &&
    may(f, 'timeout_ms', (ms) => isInteger(ms, 1, 2 ** 31 - 1)) && goodData(f),
  subscribe: (f) =>
    has(f, 'channel') !== has(f, 'pattern') && may(f, 'channel', isName) && may(f, 'pattern', isPattern) &&
    !(has(f, 'since') && has(f, 'last')) && may(f, 'since', isCursor) && may(f, 'last', isId) &&
    may(f, 'recover', (r) => r === 'require' && has(f, 'since')),
  publish: (f) =>
    isName(f.channel) && has(f, 'data') && may(f, 'echo', (e) => e === false) && may(f, 'dedupe', isName) && goodData(f),
  history: (f) =>
    isName(f.channel) && !(has(f, 'before') && has(f, 'after')) &&
    may(f, 'before', isCursor) && may(f, 'after', isCursor) && may(f, 'limit', isId),
};

/** Whether a frame has the shape that its type asks for. @param {Frame} frame */
export const isWellFormed = (frame) => may(frame, 'meta', isObject) && SHAPES[/** @type {string} */ (frame.type)](frame);

/**
 * Whether the type or a member of a frame belongs to something that was not negotiated.
 * @param {Frame} frame @param {Set<string>} profiles
 */
export function isUnsupported(frame, profiles) {
  const row = TYPES.get(/** @type {string} */ (frame.type));
  if (!row || !profiles.has(row.profile)) return true;
  if (frame.type === 'subscribe' && has(frame, 'pattern') && (has(frame, 'since') || has(frame, 'last'))) return true;
  const members = Object.hasOwn(MEMBERS, /** @type {string} */ (frame.type)) ? MEMBERS[frame.type] : [];
  return members.some(([member, profile]) => has(frame, member) && !profiles.has(profile));
}

/** The profiles in force for the wishes of a client. @param {string[]} wishes @returns {string[]} */
export function negotiate(wishes) {
  const wanted = new Set(wishes);
  const ok = (name) => wanted.has(name) && OFFERED.has(name) && OFFERED.get(name).every(ok);
  return [...OFFERED.keys()].filter(ok);
}

/** The limits that `welcome` shows. @param {{[limit: string]: unknown}} limits @param {string[]} profiles */
export const visibleLimits = (limits, profiles) =>
  Object.fromEntries(Object.entries(limits).filter(([limit]) => !has(LIMIT_PROFILES, limit) || profiles.includes(LIMIT_PROFILES[limit])));

/** Whether a text opens more than 64 objects and arrays inside each other. @param {string} text */
function isTooDeep(text) {
  let depth = 0;
  let quoted = false;
  for (let i = 0; i < text.length; i++) {
    const c = text.charCodeAt(i);
    if (quoted) {
      if (c === 0x5c) i++; // backslash
      else if (c === 0x22) quoted = false;
    } else if (c === 0x22) quoted = true;
    else if (c === 0x7b || c === 0x5b) {
      if (++depth > MAX_DEPTH) return true;
    } else if (c === 0x7d || c === 0x5d) depth--;
  }
  return false;
}

/** Step 3 of the reading order. @param {string} text @returns {Frame | null} */
export function parse(text) {
  if (isTooDeep(text)) return null;
  try {
    const value = JSON.parse(text);
    return isObject(value) ? value : null;
  } catch {
    return null;
  }
}
