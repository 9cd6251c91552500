// Checks API keys in an Edge Function (Deno) or in Node 20. This file needs only fetch.
//
//   import { Keylatch } from "./keylatch.ts"
//
//   const keylatch = new Keylatch({
//     url: Deno.env.get("SUPABASE_URL")!,
//     apikey: Deno.env.get("SUPABASE_ANON_KEY")!, // or a key that begins with sb_publishable_
//     token: Deno.env.get("KEYLATCH_RESOLVER_TOKEN")!,
//   })
//   Deno.serve(keylatch.withKey(
//     (request, key) => Response.json({ workspace: key.workspace_id }),
//     { scope: "orders:read" },
//   ))
//
// Set verify_jwt = false for this function, because callers send a key and no JWT.
import type { Database } from "../types/keylatch.ts"

type Functions = Database["keylatch"]["Functions"]
export type ResolvedKey = Functions["resolve_key"]["Returns"][number]
export type Explanation = Functions["explain_key"]["Returns"]
export type Session = Functions["open_session"]["Returns"]
export type Handler = (request: Request, key: ResolvedKey) => Response | Promise<Response>

export type Options = {
  /** The URL of the project, for example https://PROJECT.supabase.co. */
  url: string
  /** The publishable or anon key of the project. */
  apikey: string
  /** A JWT of the role keylatch_resolver, which can only resolve keys. */
  token: string
  /** Called with the reason when a request is refused; console.warn by default. */
  log?: (line: string) => void
}

/** An error of the database. Programs match on `slug`; `hint` is the next step. */
export class KeylatchError extends Error {
  override readonly name = "KeylatchError"
  constructor(
    readonly status: number,
    readonly slug: string,
    readonly detail: string | null,
    readonly hint: string | null,
  ) {
    super([slug, detail, hint].filter(Boolean).join(": "))
  }
}

export class Keylatch {
  readonly #options: Options

  constructor(options: Options) {
    this.#options = options
  }

  /** Returns the key with this text if the key is active and allows the origin, else null. */
  async resolve(key: string, origin: string | null): Promise<ResolvedKey | null> {
    return (await this.#call("resolve_key", { key, origin }))[0] ?? null
  }

  /** Returns why a key resolves or not, for the service's log. Do not send it to the client. */
  explain(key: string, origin: string | null): Promise<Explanation> {
    return this.#call("explain_key", { key, origin })
  }

  /** Opens a session for a visitor of the page at `origin`. Only this call returns the token. */
  openSession(key: string, origin: string): Promise<Session> {
    return this.#call("open_session", { key }, { Origin: origin })
  }

  /** Wraps a handler, so that it runs only for a request with a valid key. */
  withKey(handler: Handler, rule: { scope?: string } = {}): (request: Request) => Promise<Response> {
    return async (request) => {
      const presented = keyOf(request)
      if (!presented) {
        const hint = "Send a key as x-api-key or Authorization: Bearer."
        return problem(401, "key_missing", "No key was sent.", hint, "Bearer")
      }
      const origin = request.headers.get("Origin")
      let key: ResolvedKey | null
      try {
        key = await this.resolve(presented, origin)
      } catch (error) {
        const { cause } = error as Error
        this.#log(`keylatch did not answer: ${error}${cause ? ` (${cause})` : ""}`)
        return problem(503, "unavailable", "The key could not be checked.", "Try again later.")
      }
      if (!key) {
        await this.#logReason(presented, origin)
        const hint = "Ask an admin of the workspace to call explain_key."
        const challenge = 'Bearer error="invalid_token"'
        return problem(401, "key_invalid", "This key is not accepted.", hint, challenge)
      }
      if (rule.scope !== undefined && !key.scopes.includes(rule.scope)) {
        this.#log(`request refused: scope_missing, key_id ${key.key_id}`)
        const detail = `The key does not have the scope ${rule.scope}.`
        const challenge = `Bearer error="insufficient_scope", scope="${rule.scope}"`
        const hint = "Use a key that was issued with this scope."
        return problem(403, "scope_missing", detail, hint, challenge)
      }
      return handler(request, key)
    }
  }

  /** Logs why a key was refused. If explain_key fails, the key stays refused. */
  async #logReason(presented: string, origin: string | null): Promise<void> {
    try {
      const { verdict, key_id, fingerprint } = await this.explain(presented, origin)
      this.#log(`request refused: ${verdict}, key_id ${key_id}, fingerprint ${fingerprint}`)
    } catch (error) {
      this.#log(`request refused, and explain_key did not answer: ${error}`)
    }
  }

  #log(line: string): void {
    (this.#options.log ?? console.warn)(line)
  }

  async #call<Name extends "resolve_key" | "explain_key" | "open_session">(
    name: Name,
    args: Functions[Name]["Args"],
    headers: Record<string, string> = { Authorization: `Bearer ${this.#options.token}` },
  ): Promise<Functions[Name]["Returns"]> {
    const { url, apikey } = this.#options
    // The key is in the body of a POST, because servers log URLs.
    const response = await fetch(`${url}/rest/v1/rpc/${name}`, {
      method: "POST",
      headers: { apikey, "Content-Type": "application/json", "Content-Profile": "keylatch", ...headers },
      body: JSON.stringify(args),
      signal: AbortSignal.timeout(10_000),
    })
    const answer = await response.json().catch(() => ({}))
    if (response.ok) return answer
    const { message = `HTTP ${response.status}`, details = null, hint = null } = answer
    throw new KeylatchError(response.status, message, details, hint)
  }
}

function keyOf(request: Request): string | undefined {
  const bearer = /^Bearer +(\S+)$/i.exec(request.headers.get("Authorization") ?? "")
  return request.headers.get("x-api-key") || bearer?.[1]
}

function problem(
  status: number, slug: string, detail: string, hint: string, challenge?: string,
): Response {
  const headers = new Headers({ "Content-Type": "application/problem+json" })
  if (challenge) headers.set("WWW-Authenticate", challenge)
  return new Response(JSON.stringify({ status, slug, detail, hint }), { status, headers })
}
