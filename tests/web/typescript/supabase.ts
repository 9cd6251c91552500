// The types within supabase-js, beside those of the application's own schema.
import { createClient } from "@supabase/supabase-js"
import type { Database as Keylatch } from "../../../supabase/types/keylatch.ts"

type Notes = {
  Row: { id: number; note: string }
  Insert: { note: string }
  Update: { note?: string }
  Relationships: []
}
type Own = {
  public: { Tables: { notes: Notes }; Views: {}; Functions: {} }
}

const client = createClient<Own & Keylatch>("", "")
const alone = createClient<Keylatch, "keylatch">("", "", { db: { schema: "keylatch" } })
const api = client.schema("keylatch")
const workspace_id = "aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa"

export async function use(): Promise<unknown[]> {
  const issued = await api.rpc("issue_key", { workspace_id, kind: "secret", expires_at: null })
  const found = await alone.rpc("resolve_key", { key: "", origin: null })
  const keys = await api.from("keys").select("label, status, expires_at").eq("status", "active")
  const { data: here } = await api.rpc("installation")
  const notes = await client.from("notes").select("note")
  await api.from("keys").update({ suspended_at: null }).eq("id", "id")
  // @ts-expect-error Type 'null' is not assignable to type 'string | undefined'.
  await api.rpc("issue_key", { workspace_id, label: null })
  // @ts-expect-error Type '"other"' is not assignable to type 'Kind | undefined'.
  await api.rpc("issue_key", { workspace_id, kind: "other" })
  // @ts-expect-error Type 'null' is not assignable to type 'string | undefined'.
  await api.from("keys").update({ label: null }).eq("id", "id")
  // @ts-expect-error Argument of type '"deleted"' is not assignable
  await api.from("keys").select("label").eq("status", "deleted")
  // @ts-expect-error Argument of type '"lost_key"' is not assignable
  await api.rpc("lost_key")
  return [
    issued.data?.key.length,
    here?.modules.length,
    found.data?.map((key) => key.scopes.length),
    keys.data?.map((key) => key.label.trim() + key.status),
    notes.data?.map((row) => row.note.trim()),
    // @ts-expect-error 'key.expires_at' is possibly 'null'.
    keys.data?.map((key) => key.expires_at.length),
  ]
}
