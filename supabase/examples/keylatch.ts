// Checks API keys in an Edge Function (Deno) or in Node 20. This file needs only fetch.
//
//   import { Keylatch } from "./keylatch.ts"
//
//   const keylatch = new Keylatch({
//     url: Deno.env.get("SUPABASE_URL")!,
//     apikey: JSON.parse(Deno.env.get("SUPABASE_PUBLISHABLE_KEYS")!).default,
//     token: Deno.env.get("RESOLVER_TOKEN")!,
//   })
//   Deno.serve(keylatch.withKey(
//     (request, key) => Response.json({ workspace: key.workspace_id }),
//     { scope: "orders:read" },
//   ))
//
// Set verify_jwt = false for this function, because callers send a key and no JWT.
import type { Database } from "../types/keylatch.ts"

const JSON_IN_KEYLATCH = { "Content-Type": "application/json", "Content-Profile": "keylatch" }
type Functions = Database["keylatch"]["Functions"]
export type ResolvedKey = Functions["resolve_key"]["Returns"][number]
export type Explanation = Functions["explain_key"]["Returns"]
export type Session = Functions["open_session"]["Returns"]
export type Handler = (request: Request, key: ResolvedKey) => Response | Promise<Response>
/** What a key needs: a scope, and one of these kinds; by default, only secret keys are accepted. */
export type Rule = { scope?: string; kinds?: ResolvedKey["kind"][] }

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

  /** Wraps a handler, so that the handler runs only for a request with a valid key. */
  withKey(handler: Handler, { scope, kinds = ["secret"] }: Rule = {}) {
    return async (request: Request): Promise<Response> => {
      const log = this.#options.log ?? console.warn
      const [presented, other] = keysOf(request)
      if (other) {
        log("request refused: keys_differ")
        return problem(400, "keys_differ", "Two different keys were sent.", "Send one.")
      }
      if (!presented) {
        const hint = "Send a key as x-api-key or Authorization: Bearer."
        return problem(401, "key_missing", "No key was sent.", hint, "Bearer")
      }
      const origin = request.headers.get("Origin")
      const key = await this.resolve(presented, origin).catch((error: Error) => {
        log(`keylatch did not answer: ${error}${error.cause ? ` (${error.cause})` : ""}`)
      })
      if (key === undefined) {
        return problem(503, "unavailable", "The key could not be checked.", "Try again later.")
      }
      if (!key) {
        // If explain_key fails, the key stays refused.
        await this.explain(presented, origin).then(
          ({ verdict, key_id, fingerprint }) =>
            log(`request refused: ${verdict}, key_id ${key_id}, fingerprint ${fingerprint}`),
          (error) => log(`request refused, and explain_key did not answer: ${error}`),
        )
        const hint = "Ask an admin of the workspace to call explain_key."
        const challenge = 'Bearer error="invalid_token"'
        return problem(401, "key_invalid", "This key is not accepted.", hint, challenge)
      }
      if (!kinds.includes(key.kind)) {
        log(`request refused: kind_not_accepted, key_id ${key.key_id}`)
        const detail = `A ${key.kind} key is not accepted here.`
        return problem(403, "kind_not_accepted", detail, `Use a ${kinds.join(" or ")} key.`)
      }
      if (scope !== undefined && !key.scopes.includes(scope)) {
        log(`request refused: scope_missing, key_id ${key.key_id}`)
        const challenge = `Bearer error="insufficient_scope", scope="${scope}"`
        const detail = `The key does not have the scope ${scope}.`
        return problem(403, "scope_missing", detail, "Use a key with this scope.", challenge)
      }
      return handler(request, key)
    }
  }

  /** Sends a call in the body of a POST, because servers log URLs. */
  async #call<Name extends "resolve_key" | "explain_key" | "open_session">(
    name: Name,
    args: Functions[Name]["Args"],
    headers: Record<string, string> = { Authorization: `Bearer ${this.#options.token}` },
  ): Promise<Functions[Name]["Returns"]> {
    const response = await fetch(`${this.#options.url}/rest/v1/rpc/${name}`, {
      method: "POST",
      headers: { apikey: this.#options.apikey, ...JSON_IN_KEYLATCH, ...headers },
      body: JSON.stringify(args, (_, value) => typeof value === "string" ? clean(value) : value),
      signal: AbortSignal.timeout(10_000),
    })
    const answer = await response.json().catch(() => ({}))
    if (response.ok) return answer
    const { message = `HTTP ${response.status}`, details = null, hint = null } = answer
    throw new KeylatchError(response.status, message, details, hint)
  }
}

/** PostgreSQL refuses NUL and lone surrogates. No key contains them. */
const clean = (text: string) => text.replace(/[\0\p{Cs}]/gu, "\ufffd")

function keysOf({ headers }: Request): string[] {
  const bearer = /^Bearer +(\S+)$/i.exec(headers.get("Authorization") ?? "")?.[1] ?? ""
  return [...new Set([headers.get("x-api-key") ?? "", bearer])].filter(Boolean)
}

function problem(status: number, slug: string, detail: string, hint: string, challenge?: string) {
  const headers = new Headers({ "Content-Type": "application/problem+json" })
  if (challenge) headers.set("WWW-Authenticate", challenge)
  return new Response(JSON.stringify({ status, slug, detail, hint }), { status, headers })
}
