// Opens a session with the page's publishable key, shows the session, and reads and writes notes.
/** @typedef {import("../../types/keylatch.ts").Database["keylatch"]["Functions"]} Functions */
/** @typedef {Functions["open_session"]["Returns"]} Session */
/** @typedef {{ message: string, hint: string | null }} Refusal */

const widget = /** @type {HTMLElement} */ (document.querySelector("main"))
const { url = "", apikey = "", key = "" } = widget.dataset
const form = /** @type {HTMLFormElement} */ (widget.querySelector("form"))
const status = /** @type {HTMLElement} */ (widget.querySelector("p"))
const list = /** @type {HTMLElement} */ (widget.querySelector("ul"))

/** @param {string} path  @param {Record<string, string>} headers  @param {object} [body] */
async function call(path, headers, body) {
  const response = await fetch(`${url}/rest/v1/${path}`, {
    method: body ? "POST" : "GET",
    headers: { apikey, "Content-Type": "application/json", ...headers },
    body: body ? JSON.stringify(body) : null,
  })
  const answer = response.status === 201 ? null : await response.json()
  if (!response.ok) throw answer
  return answer
}

// A tab keeps its session when the page reloads. Only a tab without a session opens a session.
/** @returns {Promise<Session>} */
async function session() {
  const kept = sessionStorage.getItem("session")
  if (kept) return JSON.parse(kept)
  /** @type {Functions["open_session"]["Args"]} */
  const args = { key }
  const opened = await call("rpc/open_session", { "Content-Profile": "keylatch" }, args)
  sessionStorage.setItem("session", JSON.stringify(opened))
  return opened
}

/** @param {string} [note] */
async function show(note) {
  try {
    const { token, expires_at } = await session()
    const headers = { "x-session-token": token }
    if (note) await call("notes", headers, { note })
    /** @type {{ note: string }[]} */
    const notes = await call("notes?select=note&order=id", headers)
    status.textContent = `Session …${token.slice(-4)} until ${new Date(expires_at).toUTCString()}`
    status.className = ""
    list.replaceChildren(...notes.map((row) => {
      const item = document.createElement("li")
      item.textContent = row.note
      return item
    }))
  } catch (error) {
    const { message, hint } = /** @type {Refusal} */ (error)
    if (message === "invalid_session") sessionStorage.removeItem("session")
    status.textContent = [message, hint].filter(Boolean).join(": ")
    status.className = "refused"
    list.replaceChildren()
  }
}

form.addEventListener("submit", (event) => {
  event.preventDefault()
  void show(String(new FormData(form).get("note")))
  form.reset()
})
void show()
