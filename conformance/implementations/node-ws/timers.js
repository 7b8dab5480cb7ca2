/** The token bucket and the heartbeat of one session. */

/** A monotonic clock in milliseconds. */
export const now = () => performance.now();

/** Starts full, refills evenly, holds no more than `count`. */
export class Bucket {
  #tokens;
  #at = now();
  #rate;

  /** @param {{count: number, per_ms: number} | undefined} rate without one every frame is free */
  constructor(rate) {
    this.#rate = rate;
    this.#tokens = rate?.count ?? Infinity;
  }

  #refill() {
    const time = now();
    const { count, per_ms } = this.#rate;
    this.#tokens = Math.min(count, this.#tokens + ((time - this.#at) * count) / per_ms);
    this.#at = time;
  }

  /** Pays for one frame, if there is a token. */
  take() {
    if (!this.#rate) return true;
    this.#refill();
    if (this.#tokens < 1 - 1e-9) return false;
    this.#tokens -= 1;
    return true;
  }

  /** Milliseconds until there is a token. */
  wait() {
    this.#refill();
    const { count, per_ms } = this.#rate;
    return Math.max(1, Math.ceil(((1 - this.#tokens) * per_ms) / count));
  }
}

/** Pings after silence in either direction and gives up on a client that says nothing. */
export class Heartbeat {
  #lastIn = now();
  #lastOut = now();
  #lastPing = -Infinity;
  /** @type {NodeJS.Timeout | undefined} */
  #timer;
  /** @type {NodeJS.Immediate | undefined} */
  #immediate;

  /**
   * @param {{interval_ms: number, timeout_ms: number}} settings
   * @param {{ping: () => void, dead: () => void}} actions
   */
  constructor({ interval_ms, timeout_ms }, { ping, dead }) {
    const isDead = () => now() >= this.#lastIn + interval_ms + timeout_ms;
    const tick = (hasRead = false) => {
      // After a busy moment frames may wait in the kernel: read them first.
      if (isDead() && !hasRead) return (this.#immediate = setImmediate(tick, true));
      if (isDead()) return dead();
      const due = () => Math.max(Math.min(this.#lastIn, this.#lastOut), this.#lastPing) + interval_ms;
      if (now() >= due()) {
        this.#lastPing = now();
        ping();
      }
      const next = Math.min(due(), this.#lastIn + interval_ms + timeout_ms);
      this.#timer = setTimeout(tick, Math.max(1, Math.ceil(next - now())));
    };
    tick();
  }

  received() {
    this.#lastIn = now();
  }

  sent() {
    this.#lastOut = now();
  }

  stop() {
    clearTimeout(this.#timer);
    clearImmediate(this.#immediate);
  }
}
