// The page's side of the server's protocol (rlstep/annotation/app.py): the token, the tab's name, and a line of saves that go
// out one after the other, are repeated until they arrive, and are skipped where a newer one of the same solution waits.

const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 10000;

export class Refusal extends Error {
  constructor(status, reply) {
    super(reply.error ?? `the server answers with status ${status}.`);
    this.status = status;
    this.why = reply.why ?? null;
  }
}

/** A name for this tab that survives a reload, so that the server knows it again. */
export function tabName() {
  let name = sessionStorage.getItem("rlstep-tab");
  if (!name) {
    name = Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");
    sessionStorage.setItem("rlstep-tab", name);
  }
  return name;
}

/** The token from the address, where it stands after the # so that it is never sent with it; it is kept for a reload. */
export function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given !== null) {
    keepToken(given);
    history.replaceState(null, "", location.pathname + location.search);
  }
  return sessionStorage.getItem("rlstep-token");
}

export function keepToken(token) {
  sessionStorage.setItem("rlstep-token", token);
}

/** One request; throws a Refusal, or a TypeError where the server is not reached. */
export async function ask(path, body) {
  const headers = body === undefined ? {} : { "Content-Type": "application/json" };
  const token = sessionStorage.getItem("rlstep-token");
  if (token) headers.Authorization = `Bearer ${token}`;
  const response = await fetch(`api/${path}`, {
    method: body === undefined ? "GET" : "POST",
    headers,
    body: body === undefined ? undefined : JSON.stringify(body),
    cache: "no-store",
  });
  const reply = await response.json().catch(() => ({}));
  if (!response.ok) throw new Refusal(response.status, reply);
  return reply;
}

export class Saver {
  /**
   * @param onReply called with the server's answer to every save, and the save
   * @param onRefused called with a Refusal; what waits then is dropped
   * @param onTrouble called with a message while the server is not reached, with null once it is again
   */
  constructor(onReply, onRefused, onTrouble) {
    Object.assign(this, { onReply, onRefused, onTrouble });
    this.waiting = [];
    this.running = null;
  }

  get idle() {
    return this.running === null;
  }

  /** Sends marks; `send` gives the request's body, with its revision, when its turn comes. */
  put(item, body) {
    const last = this.waiting.at(-1);
    if (last && last.item === item) this.waiting.pop(); // marks are sent whole: the newer ones hold the older
    this.waiting.push({ item, body });
    this.running ??= this.run().finally(() => (this.running = null));
  }

  /** Settles once everything has been sent. */
  async whenIdle() {
    while (this.running) await this.running;
  }

  async run() {
    while (this.waiting.length) {
      const { body } = this.waiting.shift();
      const request = body();
      let reply;
      try {
        reply = await this.persistently(request);
      } catch (refusal) {
        this.waiting = [];
        this.onRefused(refusal);
        return;
      }
      this.onReply(reply, request);
    }
  }

  async persistently(request) {
    for (let wait = FIRST_WAIT_MS; ; wait = Math.min(2 * wait, LONGEST_WAIT_MS)) {
      try {
        const reply = await ask("save", request);
        this.onTrouble(null);
        return reply;
      } catch (error) {
        if (error instanceof Refusal && error.status < 500) {
          this.onTrouble(null);
          throw error;
        }
        const reason = error instanceof Refusal ? error.message : "the server is not reached.";
        this.onTrouble(`Not saved yet: ${reason} Your marks are kept here and are sent again; leave this page open.`);
        await new Promise((resolve) => setTimeout(resolve, wait));
      }
    }
  }
}
