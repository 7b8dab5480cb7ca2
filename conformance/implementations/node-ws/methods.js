/** The request methods of this server, among them the conformance script. */

import { setImmediate as turn, setTimeout as sleep } from 'node:timers/promises';
import { encodeEvent } from './broker.js';
import { Failure, has, isErrorCode, isInteger, isName, isObject } from './protocol.js';

/**
 * One request, as a method sees it.
 * @typedef {object} Call
 * @property {import('./protocol.js').Frame} frame
 * @property {AbortSignal} signal aborted when the request is cancelled or its session ends
 * @property {import('./session.js').Session} session
 * @property {import('./broker.js').Broker} broker
 * @property {number} maxFrame
 * @property {(body: {enc?: unknown, data?: unknown}) => void} reply ends the request early
 * @property {(failure: Failure) => void} fail ends the request early
 * @property {(data: unknown) => Promise<void>} chunk
 * @property {() => boolean} isOver
 */

/** @typedef {(call: Call) => Promise<{enc?: unknown, data?: unknown} | void>} Method */

/** @typedef {(v: unknown, call: Call) => boolean} Check */

/** @type {Check} */ const isMillis = (v) => isInteger(v, 0, 60000);
/** @type {Check} */ const isCount = (v) => isInteger(v, 0, 100000);
/** @type {Check} */ const isBytes = (v, { maxFrame }) => isInteger(v, 0, maxFrame);
/** Codes that may stand in a close frame. @type {Check} */
const isCloseCode = (v) => isInteger(v, 1000, 4999) && (v >= 3000 || (v <= 1014 && ![1004, 1005, 1006].includes(v)));

/** Whether an object has exactly these members and they pass their checks; those marked `?` may be missing. @param {{[member: string]: Check}} members @returns {Check} */
const object = (members) => (v, call) =>
  isObject(v) &&
  Object.keys(v).every((member) => has(members, member) || has(members, `${member}?`)) &&
  Object.entries(members).every(([name, check]) => {
    const member = name.replace('?', '');
    return has(v, member) ? check(v[member], call) : name !== member;
  });

/** Lets others run while a loop is long. @param {number} n */
const breathe = (n) => (n % 32 === 31 ? turn() : undefined);

/** @param {number} n @param {number} [bytes] */
const numbered = (n, bytes) => (bytes === undefined ? { n } : { n, pad: 'x'.repeat(bytes) });

/**
 * The steps of the script: the checks of their arguments, how many of them are needed, and the work.
 * @type {{[name: string]: {args: Check[], needed?: number, run: (call: Call, ...args: any[]) => unknown}}}
 */
const STEPS = {
  emit: {
    args: [isName, () => true],
    run: ({ broker }, channel, data) => broker.publish(encodeEvent(channel, data)),
  },
  burst: {
    args: [isName, isCount, isBytes],
    needed: 2,
    async run({ broker, signal }, channel, count, bytes) {
      for (let n = 0; n < count && !signal.aborted; n++) {
        broker.publish(encodeEvent(channel, numbered(n, bytes)));
        await breathe(n);
      }
    },
  },
  hold: { args: [isMillis], run: ({ signal }, ms) => sleep(ms, undefined, { signal }) },
  stream: {
    args: [isCount, isMillis, isBytes],
    needed: 1,
    async run(call, count, everyMs = 0, bytes) {
      if (!call.frame.stream) return call.fail(new Failure('bad_request', 'the request does not take a stream'));
      for (let n = 0; n < count && !call.isOver(); n++) {
        if (n > 0 && everyMs > 0) await sleep(everyMs, undefined, { signal: call.signal });
        await call.chunk(numbered(n, bytes));
        await breathe(n);
      }
    },
  },
  reply: {
    args: [object({ 'data?': () => true, 'after_ms?': isMillis })],
    needed: 0,
    async run(call, { data, after_ms } = {}) {
      if (after_ms) await sleep(after_ms, undefined, { signal: call.signal });
      call.reply({ data });
    },
  },
  error: {
    args: [object({
      code: isErrorCode,
      'message?': (v) => typeof v === 'string',
      'data?': () => true,
      'retry_ms?': isMillis,
      'after_ms?': isMillis,
    })],
    async run(call, { code, message, data, retry_ms, after_ms }) {
      if (after_ms) await sleep(after_ms, undefined, { signal: call.signal });
      call.fail(new Failure(code, message, { data, retry_ms }));
    },
  },
  close: { args: [isCloseCode], run: ({ session }, code) => session.connection?.close(code) },
  abort: { args: [], run: ({ session }) => session.connection?.abort() },
  expire: { args: [], run: ({ session }) => session.connection?.expire() },
  forget: { args: [], run: ({ session }) => session.forget() },
  trim: { args: [isName], run: ({ broker }, channel) => broker.logs.trim(channel) },
  wipe: { args: [isName], run: ({ broker }, channel) => broker.logs.wipe(channel) },
  drain: { args: [isMillis], run: ({ session }, deadlineMs) => session.connection?.drain(deadlineMs) },
};

/** @param {unknown} step @param {Call} call */
function isStep(step, call) {
  if (!Array.isArray(step) || typeof step[0] !== 'string' || !Object.hasOwn(STEPS, step[0])) return false;
  const { args: checks, needed = checks.length } = STEPS[step[0]];
  const args = step.slice(1);
  return args.length >= needed && args.length <= checks.length && args.every((arg, i) => checks[i](arg, call));
}

/** Runs a conformance script. @type {Method} */
async function run(call) {
  const script = call.frame.data;
  if (!Array.isArray(script) || !script.every((step) => isStep(step, call))) throw new Failure('bad_request', 'not a script');
  for (const [name, ...args] of script) {
    call.signal.throwIfAborted();
    await STEPS[name].run(call, ...args);
  }
}

/** The methods by name; null for one that nobody may call. @type {Map<string, Method | null>} */
export const METHODS = new Map([
  ['conf.echo', async ({ frame: { enc, data } }) => ({ enc, data })],
  ['conf.fail', async () => {
    throw new Failure('app', 'failed as asked', { data: { reason: 'asked', details: [1, null, 'two'] } });
  }],
  ['conf.broken', async () => JSON.parse('a method with a bug')],
  ['conf.forbidden', null],
  ['conf.run', run],
]);
