// What the page asks the server, with the key if the server wants one. Errors have a sentence for people.

const GONE = "The server does not answer. Is espnet-larm demo still running?";
const CUT = "The server's answer ended too early. It may have been ended, or its log says why.";
const KEY = "key";

export class WrongKey extends Error {}

// A page may be opened as .../#key=SECRET, which goes to no server and does not stay in the address.
export function takeKeyFromAddress() {
  const key = new URLSearchParams(location.hash.slice(1)).get(KEY);
  if (key !== null) {
    keepKey(key);
    history.replaceState(null, "", location.pathname + location.search);
  }
}

export function keepKey(key) {
  sessionStorage.setItem(KEY, key);
}

// Rejects with an Error whose message the server has written, or with the AbortError of options.signal.
export async function ask(path, options = {}) {
  const key = sessionStorage.getItem(KEY);
  let response;
  try {
    response = await fetch(path, { ...options, headers: key === null ? {} : { Authorization: `Bearer ${key}` } });
  } catch (error) {
    throw error.name === "AbortError" ? error : new Error(GONE);
  }
  if (!response.ok) {
    const said = await response.json().catch(() => null);
    const sentence = said?.error?.message ?? `The server answers with the status ${response.status}.`;
    throw response.status === 401 ? new WrongKey(sentence) : new Error(sentence);
  }
  return response;
}

// A stream of this server. A browser sends no headers with it: the key is offered as a subprotocol, in base64url.
export function openStream(path, rate) {
  const address = new URL(`${path}?rate=${rate}`, location.href);
  address.protocol = address.protocol.replace("http", "ws");
  const key = sessionStorage.getItem(KEY);
  const word = key === null ? "" : btoa(key).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
  const stream = new WebSocket(address, key === null ? ["live"] : ["live", `bearer.${word}`]);
  stream.binaryType = "arraybuffer";
  return stream;
}

// The lines of an answer as they come; the last is a `result`, or throws.
export async function* linesOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    let read;
    try {
      read = await reader.read();
    } catch (error) {
      throw error.name === "AbortError" ? error : new Error(CUT);
    }
    if (read.done) {
      throw new Error(CUT);
    }
    const lines = (rest + read.value).split("\n");
    rest = lines.pop();
    for (const line of lines.map((text) => JSON.parse(text))) {
      if (line.kind === "error") {
        throw new Error(line.message);
      }
      yield line;
      if (line.kind === "result") {
        return;
      }
    }
  }
}
