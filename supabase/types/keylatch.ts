// The API of keylatch as TypeScript types, made by `make generate`: do not edit.
//
// Copy this file into your project. With supabase-js and your own generated types:
//   import type { Database as Keylatch } from "./keylatch.ts"
//   const client = createClient<Database & Keylatch>(url, key)
//   await client.schema("keylatch").rpc("issue_key", { workspace_id })

export type Json = string | number | boolean | null | { [key: string]: Json | undefined } | Json[]
export type JsonObject = { [key: string]: Json | undefined }
export type Kind = "publishable" | "secret"
export type Environment = "live" | "test"
export type Status = "revoked" | "expired" | "suspended" | "superseded" | "active"
export type LegacyStatus = "upgraded" | "waiting" | "revoked" | "expired" | "suspended" | "superseded"
export type Verdict = "malformed" | "checksum_failed" | "valid" | "unknown" | "revoked" | "expired" | "suspended" | "secret_in_browser" | "origin_required" | "origin_denied"
export type EventName = "imported" | "rotated" | "issued" | "revoked" | "superseded" | "suspended" | "unsuspended" | "changed"
export type Outcome = "imported" | "exists" | "moved" | "waiting" | "refused" | "changed"
export type Role = "admin" | "member"

export type Database = {
  "keylatch": {
    Tables: {
      "session_settings": {
        Row: {
          "lifetime": string
          "workspace_id": string
        }
        ComputedFields: never
        Insert: {
          "lifetime"?: string
          "workspace_id": string
        }
        Update: {
          "lifetime"?: string
          "workspace_id"?: string
        }
        Relationships: []
      }
      "workspace_membership": {
        Row: {
          "created_at": string
          "role": Role
          "user_id": string
          "workspace_id": string
        }
        ComputedFields: never
        Insert: {
          "created_at"?: string
          "role": Role
          "user_id": string
          "workspace_id": string
        }
        Update: {
          "created_at"?: string
          "role"?: Role
          "user_id"?: string
          "workspace_id"?: string
        }
        Relationships: [
          {
            foreignKeyName: "workspace_membership_workspace_id_fkey"
            columns: ["workspace_id"]
            isOneToOne: false
            referencedRelation: "workspaces"
            referencedColumns: ["id"]
          }
        ]
      }
      "workspaces": {
        Row: {
          "created_at": string
          "external_id": string | null
          "id": string
          "name": string
        }
        ComputedFields: never
        Insert: {
          "created_at"?: string
          "external_id"?: string | null
          "id"?: string
          "name": string
        }
        Update: {
          "created_at"?: string
          "external_id"?: string | null
          "id"?: string
          "name"?: string
        }
        Relationships: []
      }
    }
    Views: {
      "imported_keys": {
        Row: {
          "expires_at": string | null
          "import_id": string
          "imported_at": string | null
          "key_id": string
          "label": string
          "last_used_at": string | null
          "masked_key": string
          "scheme": string
          "source": string
          "status": Status | null
          "workspace_id": string
        }
        ComputedFields: never
        Relationships: []
      }
      "key_events": {
        Row: {
          "address": string | null
          "agent": string | null
          "changes": JsonObject
          "checkpoint": number | null
          "event": EventName
          "id": string
          "key_id": string
          "login": string
          "occurred_at": string
          "reason": string | null
          "role": string
          "user_id": string | null
          "workspace_id": string
        }
        ComputedFields: never
        Insert: {
          "address"?: string | null
          "agent"?: string | null
          "changes"?: JsonObject
          "checkpoint"?: number | null
          "event"?: EventName
          "id"?: string
          "key_id"?: string
          "login"?: string
          "occurred_at"?: string
          "reason"?: string | null
          "role"?: string
          "user_id"?: string | null
          "workspace_id"?: string
        }
        Update: {
          "address"?: string | null
          "agent"?: string | null
          "changes"?: JsonObject
          "checkpoint"?: number | null
          "event"?: EventName
          "id"?: string
          "key_id"?: string
          "login"?: string
          "occurred_at"?: string
          "reason"?: string | null
          "role"?: string
          "user_id"?: string | null
          "workspace_id"?: string
        }
        Relationships: []
      }
      "key_refusals": {
        Row: {
          "key_id": string
          "refusals": number
          "refused_on": string
          "verdict": Verdict
          "workspace_id": string
        }
        ComputedFields: never
        Insert: {
          "key_id"?: string
          "refusals"?: number
          "refused_on"?: string
          "verdict"?: Verdict
          "workspace_id"?: string
        }
        Update: {
          "key_id"?: string
          "refusals"?: number
          "refused_on"?: string
          "verdict"?: Verdict
          "workspace_id"?: string
        }
        Relationships: []
      }
      "key_usage": {
        Row: {
          "key_id": string
          "last_used_at": string
          "uses": number
          "workspace_id": string
        }
        ComputedFields: never
        Insert: {
          "key_id"?: string
          "last_used_at"?: string
          "uses"?: number
          "workspace_id"?: string
        }
        Update: {
          "key_id"?: string
          "last_used_at"?: string
          "uses"?: number
          "workspace_id"?: string
        }
        Relationships: []
      }
      "key_usage_days": {
        Row: {
          "key_id": string
          "used_on": string
          "uses": number
          "workspace_id": string
        }
        ComputedFields: never
        Insert: {
          "key_id"?: string
          "used_on"?: string
          "uses"?: number
          "workspace_id"?: string
        }
        Update: {
          "key_id"?: string
          "used_on"?: string
          "uses"?: number
          "workspace_id"?: string
        }
        Relationships: []
      }
      "keys": {
        Row: {
          "allowed_origins": string[]
          "created_at": string
          "created_by": string | null
          "environment": Environment
          "expires_at": string | null
          "fingerprint": string
          "id": string
          "imported_at": string | null
          "kind": Kind
          "label": string
          "masked_key": string
          "metadata": JsonObject
          "public_key": string | null
          "revoke_reason": string | null
          "revoked_at": string | null
          "revoked_by": string | null
          "rotated_from": string | null
          "scopes": string[]
          "status": Status
          "superseded_at": string | null
          "suspended_at": string | null
          "updated_at": string
          "workspace_id": string
        }
        ComputedFields: never
        Insert: {
          "allowed_origins"?: string[]
          "created_at"?: string
          "created_by"?: string | null
          "environment"?: Environment
          "expires_at"?: string | null
          "fingerprint"?: string
          "id"?: string
          "imported_at"?: string | null
          "kind"?: Kind
          "label"?: string
          "masked_key"?: string
          "metadata"?: JsonObject
          "public_key"?: string | null
          "revoke_reason"?: string | null
          "revoked_at"?: string | null
          "revoked_by"?: string | null
          "rotated_from"?: string | null
          "scopes"?: string[]
          "status"?: never
          "superseded_at"?: string | null
          "suspended_at"?: string | null
          "updated_at"?: string
          "workspace_id"?: string
        }
        Update: {
          "allowed_origins"?: string[]
          "created_at"?: string
          "created_by"?: string | null
          "environment"?: Environment
          "expires_at"?: string | null
          "fingerprint"?: string
          "id"?: string
          "imported_at"?: string | null
          "kind"?: Kind
          "label"?: string
          "masked_key"?: string
          "metadata"?: JsonObject
          "public_key"?: string | null
          "revoke_reason"?: string | null
          "revoked_at"?: string | null
          "revoked_by"?: string | null
          "rotated_from"?: string | null
          "scopes"?: string[]
          "status"?: never
          "superseded_at"?: string | null
          "suspended_at"?: string | null
          "updated_at"?: string
          "workspace_id"?: string
        }
        Relationships: [
          {
            foreignKeyName: "keys_rotated_from_fkey"
            columns: ["rotated_from"]
            isOneToOne: true
            referencedRelation: "imported_keys"
            referencedColumns: ["key_id"]
          },
          {
            foreignKeyName: "keys_rotated_from_fkey"
            columns: ["rotated_from"]
            isOneToOne: true
            referencedRelation: "keys"
            referencedColumns: ["id"]
          },
          {
            foreignKeyName: "keys_rotated_from_fkey"
            columns: ["rotated_from"]
            isOneToOne: true
            referencedRelation: "legacy_keys"
            referencedColumns: ["id"]
          }
        ]
      }
      "legacy_keys": {
        Row: {
          "allowed_origins": string[]
          "created_at": string
          "created_by": string | null
          "environment": Environment
          "expires_at": string | null
          "id": string
          "imported_at": string
          "key_id": string | null
          "kind": Kind
          "label": string
          "masked_key": string
          "metadata": JsonObject
          "revoke_reason": string | null
          "revoked_at": string | null
          "revoked_by": string | null
          "scheme": string
          "scopes": string[]
          "status": LegacyStatus
          "suspended_at": string | null
          "upgraded_at": string | null
          "workspace_id": string
        }
        ComputedFields: never
        Relationships: []
      }
      "sessions": {
        Row: {
          "created_at": string
          "expires_at": string
          "id": string
          "key_id": string
          "origin": string
          "subject": string | null
          "workspace_id": string
        }
        ComputedFields: never
        Insert: {
          "created_at"?: string
          "expires_at"?: string
          "id"?: string
          "key_id"?: string
          "origin"?: string
          "subject"?: string | null
          "workspace_id"?: string
        }
        Update: {
          "created_at"?: string
          "expires_at"?: string
          "id"?: string
          "key_id"?: string
          "origin"?: string
          "subject"?: string | null
          "workspace_id"?: string
        }
        Relationships: []
      }
    }
    Functions: {
      "admin_workspace_ids": {
        Args: Record<PropertyKey, never>
        Returns: string[]
      }
      "attach_subject": {
        Args: {
          "subject": string
          "token": string
        }
        Returns: Database["keylatch"]["CompositeTypes"]["session"]
        SetofOptions: {
          from: "*"
          to: "session"
          isOneToOne: true
          isSetofReturn: false
        }
      }
      "check_request": {
        Args: Record<PropertyKey, never>
        Returns: boolean
      }
      "close_session": {
        Args: {
          "token": string
        }
        Returns: Database["keylatch"]["CompositeTypes"]["session"]
        SetofOptions: {
          from: "*"
          to: "session"
          isOneToOne: true
          isSetofReturn: false
        }
      }
      "current_key_id": {
        Args: Record<PropertyKey, never>
        Returns: string | null
      }
      "current_session_id": {
        Args: Record<PropertyKey, never>
        Returns: string | null
      }
      "current_workspace_id": {
        Args: Record<PropertyKey, never>
        Returns: string | null
      }
      "declare_scheme": {
        Args: {
          "name": string
          "recipe": Json
        }
        Returns: undefined
      }
      "end_scheme": {
        Args: {
          "ends_at": string
          "limit"?: number
          "name": string
        }
        Returns: Database["keylatch"]["CompositeTypes"]["retirement"]
        SetofOptions: {
          from: "*"
          to: "retirement"
          isOneToOne: true
          isSetofReturn: false
        }
      }
      "end_sessions": {
        Args: {
          "key_id": string
          "reason"?: string | null
        }
        Returns: Database["keylatch"]["CompositeTypes"]["session_ending"]
        SetofOptions: {
          from: "*"
          to: "session_ending"
          isOneToOne: true
          isSetofReturn: false
        }
      }
      "explain_key": {
        Args: {
          "key": string
          "origin"?: string | null
        }
        Returns: Database["keylatch"]["CompositeTypes"]["explanation"]
        SetofOptions: {
          from: "*"
          to: "explanation"
          isOneToOne: true
          isSetofReturn: false
        }
      }
      "finish_import": {
        Args: {
          "import_id": string
          "limit"?: number
          "source": string
        }
        Returns: Database["keylatch"]["CompositeTypes"]["retirement"]
        SetofOptions: {
          from: "*"
          to: "retirement"
          isOneToOne: true
          isSetofReturn: false
        }
      }
      "has_scope": {
        Args: {
          "scope": string
        }
        Returns: boolean
      }
      "hash_key": {
        Args: {
          "key": string
        }
        Returns: string
      }
      "import_keys": {
        Args: {
          "dry_run"?: boolean
          "import_id"?: string | null
          "lines": Json
          "probes"?: Json
          "source"?: string
          "strict"?: boolean
        }
        Returns: Database["keylatch"]["CompositeTypes"]["import_report"]
        SetofOptions: {
          from: "*"
          to: "import_report"
          isOneToOne: true
          isSetofReturn: false
        }
      }
      "installation": {
        Args: Record<PropertyKey, never>
        Returns: Database["keylatch"]["CompositeTypes"]["installation_info"]
        SetofOptions: {
          from: "*"
          to: "installation_info"
          isOneToOne: true
          isSetofReturn: false
        }
      }
      "issue_key": {
        Args: {
          "allowed_origins"?: string[]
          "environment"?: Environment
          "expires_at"?: string | null
          "kind"?: Kind
          "label"?: string
          "metadata"?: JsonObject
          "prefix"?: string
          "scopes"?: string[]
          "workspace_id": string
        }
        Returns: Database["keylatch"]["CompositeTypes"]["issued_key"]
        SetofOptions: {
          from: "*"
          to: "issued_key"
          isOneToOne: true
          isSetofReturn: false
        }
      }
      "issue_keys": {
        Args: {
          "allowed_origins"?: string[]
          "environment"?: Environment
          "expires_at"?: string | null
          "kind"?: Kind
          "labels": string[]
          "metadata"?: JsonObject
          "prefix"?: string
          "scopes"?: string[]
          "workspace_id": string
        }
        Returns: Database["keylatch"]["CompositeTypes"]["issued_keys"]
        SetofOptions: {
          from: "*"
          to: "issued_keys"
          isOneToOne: true
          isSetofReturn: false
        }
      }
      "key_metadata": {
        Args: Record<PropertyKey, never>
        Returns: Json | null
      }
      "list_events": {
        Args: {
          "after"?: string | null
          "limit"?: number
          "workspace_id": string
        }
        Returns: Database["keylatch"]["Views"]["key_events"]["Row"][]
        SetofOptions: {
          from: "*"
          to: "key_events"
          isOneToOne: false
          isSetofReturn: true
        }
      }
      "list_keys": {
        Args: {
          "workspace_id": string
        }
        Returns: Database["keylatch"]["Views"]["keys"]["Row"][]
        SetofOptions: {
          from: "*"
          to: "keys"
          isOneToOne: false
          isSetofReturn: true
        }
      }
      "open_session": {
        Args: {
          "key": string
        }
        Returns: Database["keylatch"]["CompositeTypes"]["opened_session"]
        SetofOptions: {
          from: "*"
          to: "opened_session"
          isOneToOne: true
          isSetofReturn: false
        }
      }
      "prune_sessions": {
        Args: {
          "batch"?: number
        }
        Returns: Database["keylatch"]["CompositeTypes"]["session_pruning"]
        SetofOptions: {
          from: "*"
          to: "session_pruning"
          isOneToOne: true
          isSetofReturn: false
        }
      }
      "record_usage": {
        Args: {
          "batch": Json
        }
        Returns: Database["keylatch"]["CompositeTypes"]["usage_report"]
        SetofOptions: {
          from: "*"
          to: "usage_report"
          isOneToOne: true
          isSetofReturn: false
        }
      }
      "replay_position": {
        Args: Record<PropertyKey, never>
        Returns: Database["keylatch"]["CompositeTypes"]["server_position"]
        SetofOptions: {
          from: "*"
          to: "server_position"
          isOneToOne: true
          isSetofReturn: false
        }
      }
      "resolve_key": {
        Args: {
          "key": string
          "origin"?: string | null
        }
        Returns: Database["keylatch"]["CompositeTypes"]["resolved_key"][]
        SetofOptions: {
          from: "*"
          to: "resolved_key"
          isOneToOne: false
          isSetofReturn: true
        }
      }
      "resolve_keys": {
        Args: {
          "keys": string[]
          "origins"?: (string | null)[] | null
        }
        Returns: Database["keylatch"]["CompositeTypes"]["resolved_key_at"][]
        SetofOptions: {
          from: "*"
          to: "resolved_key_at"
          isOneToOne: false
          isSetofReturn: true
        }
      }
      "resolve_session": {
        Args: {
          "extend"?: boolean
          "token": string
        }
        Returns: Database["keylatch"]["CompositeTypes"]["session"][]
        SetofOptions: {
          from: "*"
          to: "session"
          isOneToOne: false
          isSetofReturn: true
        }
      }
      "retire_workspace": {
        Args: {
          "limit"?: number
          "workspace_id": string
        }
        Returns: Database["keylatch"]["CompositeTypes"]["retirement"]
        SetofOptions: {
          from: "*"
          to: "retirement"
          isOneToOne: true
          isSetofReturn: false
        }
      }
      "revoke_key": {
        Args: {
          "cascade"?: boolean
          "key_id": string
          "reason"?: string | null
        }
        Returns: Database["keylatch"]["CompositeTypes"]["revocation"]
        SetofOptions: {
          from: "*"
          to: "revocation"
          isOneToOne: true
          isSetofReturn: false
        }
      }
      "revoke_legacy_key": {
        Args: {
          "id": string
          "reason"?: string | null
        }
        Returns: Database["keylatch"]["CompositeTypes"]["revocation"]
        SetofOptions: {
          from: "*"
          to: "revocation"
          isOneToOne: true
          isSetofReturn: false
        }
      }
      "rotate_key": {
        Args: {
          "expires_at"?: string | null
          "grace"?: string
          "key_id": string
        }
        Returns: Database["keylatch"]["CompositeTypes"]["issued_key"]
        SetofOptions: {
          from: "*"
          to: "issued_key"
          isOneToOne: true
          isSetofReturn: false
        }
      }
      "seal_events": {
        Args: {
          "limit"?: number
        }
        Returns: Database["keylatch"]["CompositeTypes"]["event_sealing"]
        SetofOptions: {
          from: "*"
          to: "event_sealing"
          isOneToOne: true
          isSetofReturn: false
        }
      }
      "suspend_key": {
        Args: {
          "key_id": string
        }
        Returns: Database["keylatch"]["Views"]["keys"]["Row"]
        SetofOptions: {
          from: "*"
          to: "keys"
          isOneToOne: true
          isSetofReturn: false
        }
      }
      "unsuspend_key": {
        Args: {
          "key_id": string
        }
        Returns: Database["keylatch"]["Views"]["keys"]["Row"]
        SetofOptions: {
          from: "*"
          to: "keys"
          isOneToOne: true
          isSetofReturn: false
        }
      }
      "upgrade_key": {
        Args: {
          "key": string
          "origin"?: string | null
          "workspace_id"?: string | null
        }
        Returns: Database["keylatch"]["CompositeTypes"]["resolved_key"][]
        SetofOptions: {
          from: "*"
          to: "resolved_key"
          isOneToOne: false
          isSetofReturn: true
        }
      }
      "verify_events": {
        Args: {
          "from_checkpoint"?: number
          "limit"?: number
        }
        Returns: Database["keylatch"]["CompositeTypes"]["event_verification"]
        SetofOptions: {
          from: "*"
          to: "event_verification"
          isOneToOne: true
          isSetofReturn: false
        }
      }
      "wait_for_replicas": {
        Args: {
          "timeout"?: string
        }
        Returns: Database["keylatch"]["CompositeTypes"]["replica_wait"]
        SetofOptions: {
          from: "*"
          to: "replica_wait"
          isOneToOne: true
          isSetofReturn: false
        }
      }
    }
    Enums: {
      [_ in never]: never
    }
    CompositeTypes: {
      "event_sealing": {
        "checkpoint": number | null
        "events": number
        "is_done": boolean
      }
      "event_verification": {
        "is_intact": boolean
        "checkpoints": number
        "events": number
        "unsealed": number
        "next_checkpoint": number | null
        "broken_checkpoint": number | null
        "problem": string | null
        "digest": string | null
      }
      "explanation": {
        "verdict": Verdict
        "detail": string | null
        "hint": string | null
        "key_id": string | null
        "fingerprint": string
        "expires_at": string | null
      }
      "import_outcome": {
        "position": number
        "outcome": Outcome
        "key_id": string | null
        "slug": string | null
        "detail": string | null
        "hint": string | null
      }
      "import_probe": {
        "position": number
        "verdict": Verdict
        "key_id": string | null
      }
      "import_report": {
        "imported": number
        "existing": number
        "moved": number
        "waiting": number
        "refused": number
        "lines": (Database["keylatch"]["CompositeTypes"]["import_outcome"])[]
        "changed": number
        "import_id": string
        "probes": (Database["keylatch"]["CompositeTypes"]["import_probe"])[]
      }
      "installation_info": {
        "id": string
        "schema_version": string
        "modules": string[]
        "installed_at": string
        "database_name": string
        "database_oid": number
        "system_identifier": string
        "is_replica": boolean
        "replica_lag_seconds": number | null
        "made_in": string
      }
      "issued_key": {
        "key": string
        "id": string
        "workspace_id": string
        "kind": Kind
        "environment": Environment
        "masked_key": string
        "fingerprint": string
        "label": string
        "allowed_origins": string[]
        "scopes": string[]
        "metadata": JsonObject
        "expires_at": string | null
        "rotated_from": string | null
        "created_at": string
        "created_by": string | null
      }
      "issued_keys": {
        "keys": (Database["keylatch"]["CompositeTypes"]["issued_key"])[]
      }
      "opened_session": {
        "token": string
        "expires_at": string
      }
      "replica_wait": {
        "is_synchronous": boolean
        "waited_for": number
      }
      "resolved_key": {
        "key_id": string
        "workspace_id": string
        "kind": Kind
        "environment": Environment
        "scopes": string[]
        "metadata": JsonObject
        "expires_at": string | null
      }
      "resolved_key_at": {
        "position": number
        "key_id": string | null
        "workspace_id": string | null
        "kind": Kind | null
        "environment": Environment | null
        "scopes": string[] | null
        "metadata": JsonObject | null
        "expires_at": string | null
      }
      "retirement": {
        "revoked": number
        "is_done": boolean
      }
      "revocation": {
        "id": string
        "revoked_at": string
        "already_revoked": boolean
        "also_revoked": string[]
      }
      "server_position": {
        "system_identifier": string
        "timeline": number | null
        "is_replica": boolean
        "position": number | null
      }
      "session": {
        "session_id": string
        "workspace_id": string
        "key_id": string
        "origin": string
        "subject": string | null
        "expires_at": string
      }
      "session_ending": {
        "id": string
        "revoked_at": string
        "already_revoked": boolean
        "ended": number
      }
      "session_pruning": {
        "pruned": number
      }
      "usage_report": {
        "again": string[]
      }
    }
  }
}

type DatabaseWithoutInternals = Omit<Database, '__InternalSupabase'>

type DefaultSchema = DatabaseWithoutInternals[Extract<keyof Database, "keylatch">]

export type Tables<
DefaultSchemaTableNameOrOptions extends
| keyof (DefaultSchema["Tables"] & DefaultSchema["Views"])
| { schema: keyof DatabaseWithoutInternals },
TableName extends DefaultSchemaTableNameOrOptions extends {
  schema: keyof DatabaseWithoutInternals
}
? keyof (DatabaseWithoutInternals[DefaultSchemaTableNameOrOptions["schema"]]["Tables"] &
  DatabaseWithoutInternals[DefaultSchemaTableNameOrOptions["schema"]]["Views"])
: never = never
> = DefaultSchemaTableNameOrOptions extends { schema: keyof DatabaseWithoutInternals }
? (DatabaseWithoutInternals[DefaultSchemaTableNameOrOptions["schema"]]["Tables"] &
  DatabaseWithoutInternals[DefaultSchemaTableNameOrOptions["schema"]]["Views"])[TableName] extends {
  Row: infer R
}
? R
: never
: DefaultSchemaTableNameOrOptions extends keyof (DefaultSchema["Tables"] & DefaultSchema["Views"])
? (DefaultSchema["Tables"] & DefaultSchema["Views"])[DefaultSchemaTableNameOrOptions] extends {
  Row: infer R
}
? R
: never
: never

export type TablesInsert<
DefaultSchemaTableNameOrOptions extends
| keyof DefaultSchema["Tables"]
| { schema: keyof DatabaseWithoutInternals },
TableName extends DefaultSchemaTableNameOrOptions extends {
  schema: keyof DatabaseWithoutInternals
}
? keyof DatabaseWithoutInternals[DefaultSchemaTableNameOrOptions["schema"]]["Tables"]
: never = never
> = DefaultSchemaTableNameOrOptions extends { schema: keyof DatabaseWithoutInternals }
? DatabaseWithoutInternals[DefaultSchemaTableNameOrOptions["schema"]]["Tables"][TableName] extends {
  Insert: infer I
}
? I
: never
: DefaultSchemaTableNameOrOptions extends keyof DefaultSchema["Tables"]
? DefaultSchema["Tables"][DefaultSchemaTableNameOrOptions] extends {
  Insert: infer I
}
? I
: never
: never

export type TablesUpdate<
DefaultSchemaTableNameOrOptions extends
| keyof DefaultSchema["Tables"]
| { schema: keyof DatabaseWithoutInternals },
TableName extends DefaultSchemaTableNameOrOptions extends {
  schema: keyof DatabaseWithoutInternals
}
? keyof DatabaseWithoutInternals[DefaultSchemaTableNameOrOptions["schema"]]["Tables"]
: never = never
> = DefaultSchemaTableNameOrOptions extends { schema: keyof DatabaseWithoutInternals }
? DatabaseWithoutInternals[DefaultSchemaTableNameOrOptions["schema"]]["Tables"][TableName] extends {
  Update: infer U
}
? U
: never
: DefaultSchemaTableNameOrOptions extends keyof DefaultSchema["Tables"]
? DefaultSchema["Tables"][DefaultSchemaTableNameOrOptions] extends {
  Update: infer U
}
? U
: never
: never

export type Enums<
DefaultSchemaEnumNameOrOptions extends
| keyof DefaultSchema["Enums"]
| { schema: keyof DatabaseWithoutInternals },
EnumName extends DefaultSchemaEnumNameOrOptions extends {
  schema: keyof DatabaseWithoutInternals
}
? keyof DatabaseWithoutInternals[DefaultSchemaEnumNameOrOptions["schema"]]["Enums"]
: never = never
> = DefaultSchemaEnumNameOrOptions extends { schema: keyof DatabaseWithoutInternals }
? DatabaseWithoutInternals[DefaultSchemaEnumNameOrOptions["schema"]]["Enums"][EnumName]
: DefaultSchemaEnumNameOrOptions extends keyof DefaultSchema["Enums"]
? DefaultSchema["Enums"][DefaultSchemaEnumNameOrOptions]
: never

export type CompositeTypes<
PublicCompositeTypeNameOrOptions extends
| keyof DefaultSchema["CompositeTypes"]
| { schema: keyof DatabaseWithoutInternals },
CompositeTypeName extends PublicCompositeTypeNameOrOptions extends {
  schema: keyof DatabaseWithoutInternals
}
? keyof DatabaseWithoutInternals[PublicCompositeTypeNameOrOptions["schema"]]["CompositeTypes"]
: never = never
> = PublicCompositeTypeNameOrOptions extends { schema: keyof DatabaseWithoutInternals }
? DatabaseWithoutInternals[PublicCompositeTypeNameOrOptions["schema"]]["CompositeTypes"][CompositeTypeName]
: PublicCompositeTypeNameOrOptions extends keyof DefaultSchema["CompositeTypes"]
? DefaultSchema["CompositeTypes"][PublicCompositeTypeNameOrOptions]
: never

export const Constants = {
  "keylatch": {
    Enums: {
    }
  }
} as const
