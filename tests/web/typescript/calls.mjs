// Runs calls of the compiled wrapper: JSON in, JSON out. What the wrapper logs goes to stderr.
import { readFileSync } from "node:fs"

const { module, options, calls } = JSON.parse(readFileSync(0, "utf8"))
const { Keylatch } = await import(module)
const keylatch = new Keylatch(options)

async function guarded(rule, headers) {
  const handle = keylatch.withKey((_, key) => Response.json(key), rule)
  const response = await handle(new Request("http://localhost/orders", { headers }))
  return {
    status: response.status,
    headers: Object.fromEntries(response.headers),
    body: await response.json(),
  }
}

const answers = []
for (const [name, ...args] of calls) {
  try {
    answers.push(await (name === "guarded" ? guarded(...args) : keylatch[name](...args)))
  } catch (error) {
    const { status, slug, message } = error
    answers.push({ status, slug, message })
  }
}
console.log(JSON.stringify(answers))
