// Opens a session with the page's publishable key, shows the session, and reads and writes notes.
import type { Database } from "../../types/keylatch.ts"

type OpenSession = Database["keylatch"]["Functions"]["open_session"]
type Session = OpenSession["Returns"]
type Refusal = { message: string; hint: string | null }

const widget = document.querySelector("main")!
const { url, anonKey, key } = widget.dataset as Record<string, string>
const status = widget.querySelector("p")!
const list = widget.querySelector("ul")!

async function call<T>(path: string, headers: Record<string, string>, body?: object): Promise<T> {
  const response = await fetch(`${url}/rest/v1/${path}`, {
    method: body ? "POST" : "GET",
    headers: { apikey: anonKey!, "Content-Type": "application/json", ...headers },
    body: body ? JSON.stringify(body) : null,
  })
  const answer = response.status === 201 ? null : await response.json()
  if (!response.ok) throw answer
  return answer as T
}

// A tab keeps its session when the page reloads. Only a tab without a session opens a session.
async function session(): Promise<Session> {
  const kept = sessionStorage.getItem("session")
  if (kept) return JSON.parse(kept)
  const args: OpenSession["Args"] = { key: key! }
  const opened = await call<Session>("rpc/open_session", { "Content-Profile": "keylatch" }, args)
  sessionStorage.setItem("session", JSON.stringify(opened))
  return opened
}

async function show(note?: string): Promise<void> {
  try {
    const { token, expires_at } = await session()
    const headers = { "x-session-token": token }
    if (note) await call("notes", headers, { note })
    const notes = await call<{ note: string }[]>("notes?select=note&order=id", headers)
    status.textContent = `Session …${token.slice(-4)} until ${new Date(expires_at).toUTCString()}`
    status.className = ""
    list.replaceChildren(...notes.map((row) => {
      const item = document.createElement("li")
      item.textContent = row.note
      return item
    }))
  } catch (error) {
    const { message, hint } = error as Refusal
    if (message === "invalid_session") sessionStorage.removeItem("session")
    status.textContent = [message, hint].filter(Boolean).join(": ")
    status.className = "refused"
    list.replaceChildren()
  }
}

widget.querySelector("form")!.addEventListener("submit", (event) => {
  event.preventDefault()
  const form = event.target as HTMLFormElement
  void show(new FormData(form).get("note") as string)
  form.reset()
})
void show()
