/** The settings of this server: who may come, what they may use, and the limits. */

export const HELLO_TIMEOUT_MS = 1000;
export const DRAIN_MS = 1000;
export const CLOSE_MS = 3000;
export const HEARTBEAT = { interval_ms: 1000, timeout_ms: 500 };

// What the server keeps, in all.
export const MAX_LOGS = 1000;
export const LOG_EVENTS = 2000;
export const LOG_BYTES = 1048576;

// What it keeps for one principal.
export const MAX_SUSPENDED = 32;
export const MAX_TOMBSTONES = 64;
export const MAX_DEDUPE_KEYS = 50000;

/**
 * @typedef {object} Limits
 * @property {number} max_frame
 * @property {number} max_inflight
 * @property {number} max_subscriptions
 * @property {number} queue
 * @property {number} queue_bytes
 * @property {number} window
 * @property {number} window_bytes
 * @property {number} ack_delay_ms
 * @property {number} resume_ms
 * @property {number} dedupe_ms
 * @property {number} history_limit
 * @property {{count: number, per_ms: number}} [rate]
 */

/** @type {Limits} */
export const LIMITS = {
  max_frame: 262144, max_inflight: 64, max_subscriptions: 256, queue: 1024, queue_bytes: 4194304,
  window: 256, window_bytes: 1048576, ack_delay_ms: 1000, resume_ms: 10000, dedupe_ms: 60000, history_limit: 500,
};

/** @type {Limits} */
const LIMITED = {
  ...LIMITS, max_frame: 65536, max_inflight: 4, max_subscriptions: 4, queue: 16, queue_bytes: 65536,
  window: 16, window_bytes: 65536, resume_ms: 2000, dedupe_ms: 2000, history_limit: 10,
  rate: { count: 20, per_ms: 1000 },
};

/** @type {Limits} */
const SMALL = {
  max_frame: 16384, max_inflight: 8, max_subscriptions: 8, queue: 8, queue_bytes: 16384,
  window: 4, window_bytes: 16384, ack_delay_ms: 100, resume_ms: 400, dedupe_ms: 400, history_limit: 5,
};

/**
 * @typedef {object} Identity
 * @property {string} principal
 * @property {boolean} [narrow] without permission for `restricted/`
 * @property {Limits} limits
 * @property {number} [expiresInMs] counted from the moment at which the token is presented
 */

/** @type {Map<string, Partial<Identity> & {principal: string, expired?: boolean}>} */
const TOKENS = new Map([
  ['tok-alice', { principal: 'alice' }],
  ['tok-alice-2', { principal: 'alice' }],
  ['tok-alice-narrow', { principal: 'alice', narrow: true }],
  ['tok-alice-brief', { principal: 'alice', expiresInMs: 400 }],
  ['tok-bob', { principal: 'bob' }],
  ['tok-carol', { principal: 'carol' }],
  ['tok-brief', { principal: 'brief', expiresInMs: 400 }],
  ['tok-expired', { principal: 'expired', expired: true }],
  ['tok-limited', { principal: 'limited', limits: LIMITED }],
  ['tok-small', { principal: 'small', limits: SMALL }],
  ['tok-small-2', { principal: 'small', limits: SMALL }],
]);

/**
 * Who presents these credentials, or null when nobody known does.
 * @param {{token?: unknown, scheme?: unknown}} credentials
 * @returns {Identity | null}
 */
export function authenticate({ token, scheme = 'bearer' }) {
  const entry = TOKENS.get(/** @type {string} */ (token));
  if (scheme !== 'bearer' || !entry || entry.expired) return null;
  return { limits: LIMITS, ...entry };
}

/** Whether an identity may publish to a channel and subscribe to it. @param {Identity} identity @param {string} channel */
export function mayUse(identity, channel) {
  if (channel.startsWith('forbidden/')) return false;
  return !(identity.narrow && channel.startsWith('restricted/'));
}

/** Whether a channel has a log. @param {string} channel */
export const hasLog = (channel) => !channel.startsWith('nolog/');
