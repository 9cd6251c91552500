// The API of keylatch as TypeScript types, made by `make generate`: do not edit.
// Your own project's are made by `supabase gen types --schema public --schema keylatch`.

export type Json = string | number | boolean | null | { [key: string]: Json | undefined } | Json[]

export type Database = {
  "keylatch": {
    Tables: {
      "session_settings": {
        Row: {
          "lifetime": string,
          "workspace_id": string
        }
        ComputedFields: never
        Insert: {
          "lifetime"?: string,
          "workspace_id": string
        }
        Update: {
          "lifetime"?: string,
          "workspace_id"?: string
        }
        Relationships: [
        ]
      },
      "workspace_membership": {
        Row: {
          "created_at": string,
          "role": string,
          "user_id": string,
          "workspace_id": string
        }
        ComputedFields: never
        Insert: {
          "created_at"?: string,
          "role": string,
          "user_id": string,
          "workspace_id": string
        }
        Update: {
          "created_at"?: string,
          "role"?: string,
          "user_id"?: string,
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
      },
      "workspaces": {
        Row: {
          "created_at": string,
          "external_id": string | null,
          "id": string,
          "name": string
        }
        ComputedFields: never
        Insert: {
          "created_at"?: string,
          "external_id"?: string | null,
          "id"?: string,
          "name": string
        }
        Update: {
          "created_at"?: string,
          "external_id"?: string | null,
          "id"?: string,
          "name"?: string
        }
        Relationships: [
        ]
      }
    }
    Views: {
      "imported_keys": {
        Row: {
          "expires_at": string | null,
          "import_id": string,
          "imported_at": string | null,
          "key_id": string,
          "label": string,
          "last_used_at": string | null,
          "masked_key": string,
          "scheme": string,
          "source": string,
          "status": string | null,
          "workspace_id": string
        }
        ComputedFields: never
        Relationships: [
        ]
      },
      "key_events": {
        Row: {
          "address": string | null,
          "agent": string | null,
          "changes": NonNullable<Json>,
          "checkpoint": number | null,
          "event": string,
          "id": string,
          "key_id": string,
          "login": string,
          "occurred_at": string,
          "reason": string | null,
          "role": string,
          "user_id": string | null,
          "workspace_id": string
        }
        ComputedFields: never
        Insert: {
          "address"?: string | null,
          "agent"?: string | null,
          "changes"?: Json | null,
          "checkpoint"?: number | null,
          "event"?: string | null,
          "id"?: string | null,
          "key_id"?: string | null,
          "login"?: string | null,
          "occurred_at"?: string | null,
          "reason"?: string | null,
          "role"?: string | null,
          "user_id"?: string | null,
          "workspace_id"?: string | null
        }
        Update: {
          "address"?: string | null,
          "agent"?: string | null,
          "changes"?: Json | null,
          "checkpoint"?: number | null,
          "event"?: string | null,
          "id"?: string | null,
          "key_id"?: string | null,
          "login"?: string | null,
          "occurred_at"?: string | null,
          "reason"?: string | null,
          "role"?: string | null,
          "user_id"?: string | null,
          "workspace_id"?: string | null
        }
        Relationships: [
        ]
      },
      "key_refusals": {
        Row: {
          "key_id": string,
          "refusals": number,
          "refused_on": string,
          "verdict": string,
          "workspace_id": string
        }
        ComputedFields: never
        Insert: {
          "key_id"?: string | null,
          "refusals"?: number | null,
          "refused_on"?: string | null,
          "verdict"?: string | null,
          "workspace_id"?: string | null
        }
        Update: {
          "key_id"?: string | null,
          "refusals"?: number | null,
          "refused_on"?: string | null,
          "verdict"?: string | null,
          "workspace_id"?: string | null
        }
        Relationships: [
        ]
      },
      "key_usage": {
        Row: {
          "key_id": string,
          "last_used_at": string | null,
          "uses": number,
          "workspace_id": string
        }
        ComputedFields: never
        Insert: {
          "key_id"?: string | null,
          "last_used_at"?: string | null,
          "uses"?: number | null,
          "workspace_id"?: string | null
        }
        Update: {
          "key_id"?: string | null,
          "last_used_at"?: string | null,
          "uses"?: number | null,
          "workspace_id"?: string | null
        }
        Relationships: [
        ]
      },
      "key_usage_days": {
        Row: {
          "key_id": string,
          "used_on": string,
          "uses": number,
          "workspace_id": string
        }
        ComputedFields: never
        Insert: {
          "key_id"?: string | null,
          "used_on"?: string | null,
          "uses"?: number | null,
          "workspace_id"?: string | null
        }
        Update: {
          "key_id"?: string | null,
          "used_on"?: string | null,
          "uses"?: number | null,
          "workspace_id"?: string | null
        }
        Relationships: [
        ]
      },
      "keys": {
        Row: {
          "allowed_origins": (string)[],
          "created_at": string,
          "created_by": string | null,
          "environment": string,
          "expires_at": string | null,
          "fingerprint": string | null,
          "id": string,
          "imported_at": string | null,
          "kind": string,
          "label": string,
          "masked_key": string,
          "metadata": NonNullable<Json>,
          "public_key": string | null,
          "revoke_reason": string | null,
          "revoked_at": string | null,
          "revoked_by": string | null,
          "rotated_from": string | null,
          "scopes": (string)[],
          "status": string | null,
          "superseded_at": string | null,
          "suspended_at": string | null,
          "updated_at": string,
          "workspace_id": string
        }
        ComputedFields: never
        Insert: {
          "allowed_origins"?: (string)[] | null,
          "created_at"?: string | null,
          "created_by"?: string | null,
          "environment"?: string | null,
          "expires_at"?: string | null,
          "fingerprint"?: string | null,
          "id"?: string | null,
          "imported_at"?: string | null,
          "kind"?: string | null,
          "label"?: string | null,
          "masked_key"?: string | null,
          "metadata"?: Json | null,
          "public_key"?: string | null,
          "revoke_reason"?: string | null,
          "revoked_at"?: string | null,
          "revoked_by"?: string | null,
          "rotated_from"?: string | null,
          "scopes"?: (string)[] | null,
          "status"?: never,
          "superseded_at"?: string | null,
          "suspended_at"?: string | null,
          "updated_at"?: string | null,
          "workspace_id"?: string | null
        }
        Update: {
          "allowed_origins"?: (string)[] | null,
          "created_at"?: string | null,
          "created_by"?: string | null,
          "environment"?: string | null,
          "expires_at"?: string | null,
          "fingerprint"?: string | null,
          "id"?: string | null,
          "imported_at"?: string | null,
          "kind"?: string | null,
          "label"?: string | null,
          "masked_key"?: string | null,
          "metadata"?: Json | null,
          "public_key"?: string | null,
          "revoke_reason"?: string | null,
          "revoked_at"?: string | null,
          "revoked_by"?: string | null,
          "rotated_from"?: string | null,
          "scopes"?: (string)[] | null,
          "status"?: never,
          "superseded_at"?: string | null,
          "suspended_at"?: string | null,
          "updated_at"?: string | null,
          "workspace_id"?: string | null
        }
        Relationships: [
          {
            foreignKeyName: "keys_rotated_from_fkey"
            columns: ["rotated_from"]
            isOneToOne: true
            referencedRelation: "imported_keys"
            referencedColumns: ["key_id"]
          },{
            foreignKeyName: "keys_rotated_from_fkey"
            columns: ["rotated_from"]
            isOneToOne: true
            referencedRelation: "keys"
            referencedColumns: ["id"]
          },{
            foreignKeyName: "keys_rotated_from_fkey"
            columns: ["rotated_from"]
            isOneToOne: true
            referencedRelation: "legacy_keys"
            referencedColumns: ["id"]
          }
        ]
      },
      "legacy_keys": {
        Row: {
          "allowed_origins": (string)[],
          "created_at": string,
          "created_by": string | null,
          "environment": string,
          "expires_at": string | null,
          "id": string,
          "imported_at": string | null,
          "key_id": string | null,
          "kind": string,
          "label": string,
          "masked_key": string,
          "metadata": NonNullable<Json>,
          "revoke_reason": string | null,
          "revoked_at": string | null,
          "revoked_by": string | null,
          "scheme": string,
          "scopes": (string)[],
          "status": string | null,
          "suspended_at": string | null,
          "upgraded_at": string | null,
          "workspace_id": string
        }
        ComputedFields: never
        Relationships: [
        ]
      },
      "sessions": {
        Row: {
          "created_at": string,
          "expires_at": string,
          "id": string,
          "key_id": string,
          "origin": string,
          "subject": string | null,
          "workspace_id": string
        }
        ComputedFields: never
        Insert: {
          "created_at"?: string | null,
          "expires_at"?: string | null,
          "id"?: string | null,
          "key_id"?: string | null,
          "origin"?: string | null,
          "subject"?: string | null,
          "workspace_id"?: string | null
        }
        Update: {
          "created_at"?: string | null,
          "expires_at"?: string | null,
          "id"?: string | null,
          "key_id"?: string | null,
          "origin"?: string | null,
          "subject"?: string | null,
          "workspace_id"?: string | null
        }
        Relationships: [
        ]
      }
    }
    Functions: {
      "admin_workspace_ids":
      { Args: Record<PropertyKey, never>; Returns: string[]
      },
      "attach_subject":
      { Args: { "subject": string,
          "token": string }; Returns: Database["keylatch"]['CompositeTypes']["session"]
        SetofOptions: {
          from: "*"
          to: "session"
          isOneToOne: true
          isSetofReturn: false
        } },
      "check_request":
      { Args: Record<PropertyKey, never>; Returns: boolean
      },
      "close_session":
      { Args: { "token": string }; Returns: Database["keylatch"]['CompositeTypes']["session"]
        SetofOptions: {
          from: "*"
          to: "session"
          isOneToOne: true
          isSetofReturn: false
        } },
      "current_key_id":
      { Args: Record<PropertyKey, never>; Returns: string
      },
      "current_session_id":
      { Args: Record<PropertyKey, never>; Returns: string
      },
      "current_workspace_id":
      { Args: Record<PropertyKey, never>; Returns: string
      },
      "declare_scheme":
      { Args: { "name": string,
          "recipe": Json }; Returns: undefined
      },
      "end_scheme":
      { Args: { "ends_at": string,
          "limit"?: number,
          "name": string }; Returns: Database["keylatch"]['CompositeTypes']["retirement"]
        SetofOptions: {
          from: "*"
          to: "retirement"
          isOneToOne: true
          isSetofReturn: false
        } },
      "end_sessions":
      { Args: { "key_id": string,
          "reason"?: string }; Returns: Database["keylatch"]['CompositeTypes']["session_ending"]
        SetofOptions: {
          from: "*"
          to: "session_ending"
          isOneToOne: true
          isSetofReturn: false
        } },
      "explain_key":
      { Args: { "key": string,
          "origin"?: string }; Returns: Database["keylatch"]['CompositeTypes']["explanation"]
        SetofOptions: {
          from: "*"
          to: "explanation"
          isOneToOne: true
          isSetofReturn: false
        } },
      "finish_import":
      { Args: { "import_id": string,
          "limit"?: number,
          "source": string }; Returns: Database["keylatch"]['CompositeTypes']["retirement"]
        SetofOptions: {
          from: "*"
          to: "retirement"
          isOneToOne: true
          isSetofReturn: false
        } },
      "has_scope":
      { Args: { "scope": string }; Returns: boolean
      },
      "hash_key":
      { Args: { "key": string }; Returns: string
      },
      "import_keys":
      { Args: { "dry_run"?: boolean,
          "import_id"?: string,
          "lines": Json,
          "probes"?: Json,
          "source"?: string,
          "strict"?: boolean }; Returns: Database["keylatch"]['CompositeTypes']["import_report"]
        SetofOptions: {
          from: "*"
          to: "import_report"
          isOneToOne: true
          isSetofReturn: false
        } },
      "installation":
      { Args: Record<PropertyKey, never>; Returns: Database["keylatch"]['CompositeTypes']["installation_info"]
        SetofOptions: {
          from: "*"
          to: "installation_info"
          isOneToOne: true
          isSetofReturn: false
        } },
      "issue_key":
      { Args: { "allowed_origins"?: (string)[],
          "environment"?: string,
          "expires_at"?: string,
          "kind"?: string,
          "label"?: string,
          "metadata"?: Json,
          "prefix"?: string,
          "scopes"?: (string)[],
          "workspace_id": string }; Returns: Database["keylatch"]['CompositeTypes']["issued_key"]
        SetofOptions: {
          from: "*"
          to: "issued_key"
          isOneToOne: true
          isSetofReturn: false
        } },
      "issue_keys":
      { Args: { "allowed_origins"?: (string)[],
          "environment"?: string,
          "expires_at"?: string,
          "kind"?: string,
          "labels": (string)[],
          "metadata"?: Json,
          "prefix"?: string,
          "scopes"?: (string)[],
          "workspace_id": string }; Returns: Database["keylatch"]['CompositeTypes']["issued_keys"]
        SetofOptions: {
          from: "*"
          to: "issued_keys"
          isOneToOne: true
          isSetofReturn: false
        } },
      "key_metadata":
      { Args: Record<PropertyKey, never>; Returns: Json
      },
      "list_events":
      { Args: { "after"?: string,
          "limit"?: number,
          "workspace_id": string }; Returns: {
          "address": string | null,
          "agent": string | null,
          "changes": NonNullable<Json>,
          "checkpoint": number | null,
          "event": string,
          "id": string,
          "key_id": string,
          "login": string,
          "occurred_at": string,
          "reason": string | null,
          "role": string,
          "user_id": string | null,
          "workspace_id": string
        }[]
        SetofOptions: {
          from: "*"
          to: "key_events"
          isOneToOne: false
          isSetofReturn: true
        } },
      "list_keys":
      { Args: { "workspace_id": string }; Returns: {
          "allowed_origins": (string)[],
          "created_at": string,
          "created_by": string | null,
          "environment": string,
          "expires_at": string | null,
          "fingerprint": string | null,
          "id": string,
          "imported_at": string | null,
          "kind": string,
          "label": string,
          "masked_key": string,
          "metadata": NonNullable<Json>,
          "public_key": string | null,
          "revoke_reason": string | null,
          "revoked_at": string | null,
          "revoked_by": string | null,
          "rotated_from": string | null,
          "scopes": (string)[],
          "status": string | null,
          "superseded_at": string | null,
          "suspended_at": string | null,
          "updated_at": string,
          "workspace_id": string
        }[]
        SetofOptions: {
          from: "*"
          to: "keys"
          isOneToOne: false
          isSetofReturn: true
        } },
      "open_session":
      { Args: { "key": string }; Returns: Database["keylatch"]['CompositeTypes']["opened_session"]
        SetofOptions: {
          from: "*"
          to: "opened_session"
          isOneToOne: true
          isSetofReturn: false
        } },
      "prune_sessions":
      { Args: { "batch"?: number }; Returns: Database["keylatch"]['CompositeTypes']["session_pruning"]
        SetofOptions: {
          from: "*"
          to: "session_pruning"
          isOneToOne: true
          isSetofReturn: false
        } },
      "record_usage":
      { Args: { "batch": Json }; Returns: Database["keylatch"]['CompositeTypes']["usage_report"]
        SetofOptions: {
          from: "*"
          to: "usage_report"
          isOneToOne: true
          isSetofReturn: false
        } },
      "replay_position":
      { Args: Record<PropertyKey, never>; Returns: Database["keylatch"]['CompositeTypes']["server_position"]
        SetofOptions: {
          from: "*"
          to: "server_position"
          isOneToOne: true
          isSetofReturn: false
        } },
      "resolve_key":
      { Args: { "key": string,
          "origin"?: string }; Returns: Database["keylatch"]['CompositeTypes']["resolved_key"][]
        SetofOptions: {
          from: "*"
          to: "resolved_key"
          isOneToOne: false
          isSetofReturn: true
        } },
      "resolve_keys":
      { Args: { "keys": (string)[],
          "origins"?: (string)[] }; Returns: Database["keylatch"]['CompositeTypes']["resolved_key_at"][]
        SetofOptions: {
          from: "*"
          to: "resolved_key_at"
          isOneToOne: false
          isSetofReturn: true
        } },
      "resolve_session":
      { Args: { "extend"?: boolean,
          "token": string }; Returns: Database["keylatch"]['CompositeTypes']["session"][]
        SetofOptions: {
          from: "*"
          to: "session"
          isOneToOne: false
          isSetofReturn: true
        } },
      "retire_workspace":
      { Args: { "limit"?: number,
          "workspace_id": string }; Returns: Database["keylatch"]['CompositeTypes']["retirement"]
        SetofOptions: {
          from: "*"
          to: "retirement"
          isOneToOne: true
          isSetofReturn: false
        } },
      "revoke_key":
      { Args: { "cascade"?: boolean,
          "key_id": string,
          "reason"?: string }; Returns: Database["keylatch"]['CompositeTypes']["revocation"]
        SetofOptions: {
          from: "*"
          to: "revocation"
          isOneToOne: true
          isSetofReturn: false
        } },
      "revoke_legacy_key":
      { Args: { "id": string,
          "reason"?: string }; Returns: Database["keylatch"]['CompositeTypes']["revocation"]
        SetofOptions: {
          from: "*"
          to: "revocation"
          isOneToOne: true
          isSetofReturn: false
        } },
      "rotate_key":
      { Args: { "expires_at"?: string,
          "grace"?: string,
          "key_id": string }; Returns: Database["keylatch"]['CompositeTypes']["issued_key"]
        SetofOptions: {
          from: "*"
          to: "issued_key"
          isOneToOne: true
          isSetofReturn: false
        } },
      "seal_events":
      { Args: { "limit"?: number }; Returns: Database["keylatch"]['CompositeTypes']["event_sealing"]
        SetofOptions: {
          from: "*"
          to: "event_sealing"
          isOneToOne: true
          isSetofReturn: false
        } },
      "suspend_key":
      { Args: { "key_id": string }; Returns: {
          "allowed_origins": (string)[],
          "created_at": string,
          "created_by": string | null,
          "environment": string,
          "expires_at": string | null,
          "fingerprint": string | null,
          "id": string,
          "imported_at": string | null,
          "kind": string,
          "label": string,
          "masked_key": string,
          "metadata": NonNullable<Json>,
          "public_key": string | null,
          "revoke_reason": string | null,
          "revoked_at": string | null,
          "revoked_by": string | null,
          "rotated_from": string | null,
          "scopes": (string)[],
          "status": string | null,
          "superseded_at": string | null,
          "suspended_at": string | null,
          "updated_at": string,
          "workspace_id": string
        }
        SetofOptions: {
          from: "*"
          to: "keys"
          isOneToOne: true
          isSetofReturn: false
        } },
      "unsuspend_key":
      { Args: { "key_id": string }; Returns: {
          "allowed_origins": (string)[],
          "created_at": string,
          "created_by": string | null,
          "environment": string,
          "expires_at": string | null,
          "fingerprint": string | null,
          "id": string,
          "imported_at": string | null,
          "kind": string,
          "label": string,
          "masked_key": string,
          "metadata": NonNullable<Json>,
          "public_key": string | null,
          "revoke_reason": string | null,
          "revoked_at": string | null,
          "revoked_by": string | null,
          "rotated_from": string | null,
          "scopes": (string)[],
          "status": string | null,
          "superseded_at": string | null,
          "suspended_at": string | null,
          "updated_at": string,
          "workspace_id": string
        }
        SetofOptions: {
          from: "*"
          to: "keys"
          isOneToOne: true
          isSetofReturn: false
        } },
      "upgrade_key":
      { Args: { "key": string,
          "origin"?: string,
          "workspace_id"?: string }; Returns: Database["keylatch"]['CompositeTypes']["resolved_key"][]
        SetofOptions: {
          from: "*"
          to: "resolved_key"
          isOneToOne: false
          isSetofReturn: true
        } },
      "verify_events":
      { Args: { "from_checkpoint"?: number,
          "limit"?: number }; Returns: Database["keylatch"]['CompositeTypes']["event_verification"]
        SetofOptions: {
          from: "*"
          to: "event_verification"
          isOneToOne: true
          isSetofReturn: false
        } },
      "wait_for_replicas":
      { Args: { "timeout"?: string }; Returns: Database["keylatch"]['CompositeTypes']["replica_wait"]
        SetofOptions: {
          from: "*"
          to: "replica_wait"
          isOneToOne: true
          isSetofReturn: false
        } }
    }
    Enums: {
      [_ in never]: never
    }
    CompositeTypes: {
      "event_sealing": {
        "checkpoint": number | null,
        "events": number | null,
        "is_done": boolean | null
      },
      "event_verification": {
        "is_intact": boolean | null,
        "checkpoints": number | null,
        "events": number | null,
        "unsealed": number | null,
        "next_checkpoint": number | null,
        "broken_checkpoint": number | null,
        "problem": string | null,
        "digest": string | null
      },
      "explanation": {
        "verdict": string | null,
        "detail": string | null,
        "hint": string | null,
        "key_id": string | null,
        "fingerprint": string | null,
        "expires_at": string | null
      },
      "import_outcome": {
        "position": number | null,
        "outcome": string | null,
        "key_id": string | null,
        "slug": string | null,
        "detail": string | null,
        "hint": string | null
      },
      "import_probe": {
        "position": number | null,
        "verdict": string | null,
        "key_id": string | null
      },
      "import_report": {
        "imported": number | null,
        "existing": number | null,
        "moved": number | null,
        "waiting": number | null,
        "refused": number | null,
        "lines": (Database["keylatch"]['CompositeTypes']["import_outcome"])[] | null,
        "changed": number | null,
        "import_id": string | null,
        "probes": (Database["keylatch"]['CompositeTypes']["import_probe"])[] | null
      },
      "installation_info": {
        "id": string | null,
        "schema_version": string | null,
        "modules": (string)[] | null,
        "installed_at": string | null,
        "database_name": string | null,
        "database_oid": number | null,
        "system_identifier": string | null,
        "is_replica": boolean | null,
        "replica_lag_seconds": number | null
      },
      "issued_key": {
        "key": string | null,
        "id": string | null,
        "workspace_id": string | null,
        "kind": string | null,
        "environment": string | null,
        "masked_key": string | null,
        "fingerprint": string | null,
        "label": string | null,
        "allowed_origins": (string)[] | null,
        "scopes": (string)[] | null,
        "metadata": Json | null,
        "expires_at": string | null,
        "rotated_from": string | null,
        "created_at": string | null,
        "created_by": string | null
      },
      "issued_keys": {
        "keys": (Database["keylatch"]['CompositeTypes']["issued_key"])[] | null
      },
      "opened_session": {
        "token": string | null,
        "expires_at": string | null
      },
      "replica_wait": {
        "is_synchronous": boolean | null,
        "waited_for": number | null
      },
      "resolved_key": {
        "key_id": string | null,
        "workspace_id": string | null,
        "kind": string | null,
        "environment": string | null,
        "scopes": (string)[] | null,
        "metadata": Json | null,
        "expires_at": string | null
      },
      "resolved_key_at": {
        "position": number | null,
        "key_id": string | null,
        "workspace_id": string | null,
        "kind": string | null,
        "environment": string | null,
        "scopes": (string)[] | null,
        "metadata": Json | null,
        "expires_at": string | null
      },
      "retirement": {
        "revoked": number | null,
        "is_done": boolean | null
      },
      "revocation": {
        "id": string | null,
        "revoked_at": string | null,
        "already_revoked": boolean | null,
        "also_revoked": (string)[] | null
      },
      "server_position": {
        "system_identifier": string | null,
        "timeline": number | null,
        "is_replica": boolean | null,
        "position": number | null
      },
      "session": {
        "session_id": string | null,
        "workspace_id": string | null,
        "key_id": string | null,
        "origin": string | null,
        "subject": string | null,
        "expires_at": string | null
      },
      "session_ending": {
        "id": string | null,
        "revoked_at": string | null,
        "already_revoked": boolean | null,
        "ended": number | null
      },
      "session_pruning": {
        "pruned": number | null
      },
      "usage_report": {
        "again": (string)[] | null
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
