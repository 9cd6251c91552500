// What the types of keylatch allow and refuse. test_typescript.py compiles this file, and again
// without the directives: then each of these lines must have the error that stands there.
import { Keylatch } from "../../../supabase/examples/keylatch.ts"
import type {
  Database, EventName, LegacyStatus, Outcome, Status, Verdict,
} from "../../../supabase/types/keylatch.ts"

type Functions = Database["keylatch"]["Functions"]
type Views = Database["keylatch"]["Views"]
type Issue = Functions["issue_key"]["Args"]

const workspace_id = "aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa"

// Arguments: what has a default may be left out, what may be null may be null.
export const least: Issue = { workspace_id }
export const dated: Issue = { workspace_id, kind: "secret", environment: "test", expires_at: null }
export const from_server: Functions["resolve_key"]["Args"] = { key: "wk_sk_live_…", origin: null }
export const batch: Functions["resolve_keys"]["Args"] = { keys: ["a", "b"], origins: [null, "b"] }
export const no_reason: Functions["revoke_key"]["Args"] = { key_id: "id", reason: null }
// @ts-expect-error Type 'null' is not assignable to type 'string | undefined'.
export const no_label: Issue = { workspace_id, label: null }
// @ts-expect-error Type '"other"' is not assignable to type 'Kind | undefined'.
export const other_kind: Issue = { workspace_id, kind: "other" }
// @ts-expect-error Type '"prod"' is not assignable to type 'Environment | undefined'.
export const other_environment: Issue = { workspace_id, environment: "prod" }
// @ts-expect-error Property '"workspace_id"' is missing in type '{ kind: "secret"; }'
export const no_workspace: Issue = { kind: "secret" }
// @ts-expect-error Object literal may only specify known properties, and 'expires' does not exist
export const mistyped: Issue = { workspace_id, expires: null }
// @ts-expect-error Type 'null' is not assignable to type 'JsonObject | undefined'.
export const no_metadata: Issue = { workspace_id, metadata: null }
// @ts-expect-error Type 'null' is not assignable to type 'string'.
export const no_key: Functions["explain_key"]["Args"] = { key: null }
// @ts-expect-error Type 'null' is not assignable to type 'boolean | undefined'.
export const no_cascade: Functions["revoke_key"]["Args"] = { key_id: "id", cascade: null }

// Rows that are written.
type Update = Views["keys"]["Update"]
export const resumed: Update = { suspended_at: null, expires_at: null }
// @ts-expect-error Type 'null' is not assignable to type 'string | undefined'.
export const unlabelled: Update = { label: null }
// @ts-expect-error Type 'string' is not assignable to type 'undefined'.
export const made_active: Update = { status: "active" }

// Results: what is never null is used without a check.
export function tell(
  issued: Functions["issue_key"]["Returns"],
  found: Functions["resolve_key"]["Returns"],
  key: Views["keys"]["Row"],
  session: Functions["open_session"]["Returns"],
  listed: Functions["resolve_keys"]["Returns"],
): unknown[] {
  const why: Verdict = found.length ? "valid" : "origin_denied"
  return [
    issued.key.slice(-4), issued.scopes.length, issued.kind === "secret", issued.metadata["plan"],
    key.fingerprint.length, key.label.trim(), key.status === "superseded", key.metadata["plan"],
    session.token.slice(-4), new Date(session.expires_at), found[0]?.scopes.includes("a"),
    listed.map((row) => row.position + 1), why,
    // @ts-expect-error 'issued.expires_at' is possibly 'null'.
    issued.expires_at.slice(0, 10),
    // @ts-expect-error 'key.public_key' is possibly 'null'.
    key.public_key.length,
    // @ts-expect-error Object is possibly 'undefined'.
    found[0].key_id,
    // @ts-expect-error 'scopes' is possibly 'null'.
    listed.map(({ scopes }) => scopes.length),
    // @ts-expect-error the types 'Status' and '"deleted"' have no overlap.
    key.status === "deleted",
    // @ts-expect-error the types 'Environment' and '"prod"' have no overlap.
    issued.environment === "prod",
  ]
}

// Closed words: a switch that names all of them needs no default.
export function next(status: Status | LegacyStatus): string {
  switch (status) {
    case "active": case "superseded": case "waiting": return "use it"
    case "suspended": return "unsuspend it"
    case "expired": case "revoked": case "upgraded": return "issue a new one"
  }
}
export const events: EventName[] = ["issued", "rotated", "imported", "changed", "suspended",
  "unsuspended", "superseded", "revoked"]
export const outcomes: Outcome[] = ["imported", "waiting", "exists", "moved", "refused"]
// @ts-expect-error Type '"deleted"' is not assignable to type 'EventName'.
export const no_event: EventName = "deleted"
// @ts-expect-error Type '"wrong"' is not assignable to type 'Verdict'.
export const no_verdict: Verdict = "wrong"

// The wrapper.
const keylatch = new Keylatch({ url: "", apikey: "", token: "" })
export const guarded = keylatch.withKey((_, key) => Response.json(key.scopes.length), { scope: "a" })
export const plain = keylatch.withKey(async (request) => new Response(request.url))
// @ts-expect-error Expected 2 arguments, but got 1.
void keylatch.resolve("key")
// @ts-expect-error Argument of type 'null' is not assignable to parameter of type 'string'.
void keylatch.openSession("key", null)
// @ts-expect-error Type 'string' is not assignable to type 'Promise<Response> | Response'.
keylatch.withKey(() => "text")
void keylatch.resolve("key", null).then((key) => key?.workspace_id)
// @ts-expect-error 'key' is possibly 'null'.
void keylatch.resolve("key", null).then((key) => key.workspace_id)
