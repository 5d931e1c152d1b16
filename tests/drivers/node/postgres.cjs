// postgres.js: every statement is prepared under a name, and prepared anew by the driver when it became stale.
'use strict'

const { PassThrough } = require('node:stream')
const { pipeline } = require('node:stream/promises')
const postgres = require('postgres')
const s = require('./scenario.cjs')
const { assert } = s

// Its pool has 10 connections by default; in session mode the pooler has 5 servers.
const sql = postgres(s.where === 'session' ? { max: 2 } : {})

async function transactions() {
  await sql`create table items (id int primary key, t text)`
  for (const i of s.times(s.REPEATS)) {
    await sql.begin(async (tx) => {
      await tx`insert into items values (${i}, ${`item ${i}`})`
      await tx`update items set t = ${`new ${i}`} where id = ${i}`
      assert.deepEqual([...(await tx`select t from items where id = ${i}`)], [{ t: `new ${i}` }])
    })
  }
  await sql`insert into items ${sql(s.times(100).map((i) => ({ id: 100 + i, t: `item ${i}` })))}`
  await assert.rejects(
    sql.begin(async (tx) => {
      await tx`delete from items where id >= ${0}`
      throw new RangeError('back')
    }),
    RangeError,
  )
  assert.equal((await sql`select count(*)::int from items`)[0].count, 100 + s.REPEATS)
}

async function manyStatements() {
  for (let round = 0; round < 2; round += 1) {
    for (const i of s.times(s.STATEMENTS)) {
      assert.equal((await sql.unsafe(`select $1::int + ${i} as n`, [i], { prepare: true }))[0].n, 2 * i)
    }
  }
  // All at once: postgres.js pipelines them over its connections.
  const found = await Promise.all(s.times(200).map((i) => sql`select ${i}::int as n, ${`text ${i}`}::text as t`))
  assert.deepEqual(
    found.map(([each]) => each),
    s.times(200).map((i) => ({ n: i, t: `text ${i}` })),
  )
}

async function errors() {
  for (const i of s.times(s.REPEATS)) {
    await s.fails('23505', () => sql`insert into items values (${1}, ${'twice'})`)
    await s.fails('42P01', () => sql`select * from no_such_table where id = ${i}`)
    await s.fails('22012', () =>
      sql.begin(async (tx) => {
        await s.fails('22012', () => tx`select 1 / ${0}::int as n`)
        await s.fails('25P02', () => tx`select t from items where id = ${1}`)
        return tx`select 1 / ${0}::int as n`
      }).catch((error) => {
        assert.equal(error.code, '22012') // the transaction fails with its first error
        throw error
      }),
    )
    await sql.begin(async (tx) => {
      await tx.savepoint((sp) => sp`insert into items values (${1000 + i}, ${'kept'})`)
      await s.fails('23505', () => tx.savepoint((sp) => sp`insert into items values (${1}, ${'twice'})`))
    })
    // A pipeline in which one statement fails: the others are carried out.
    const settled = await Promise.allSettled(
      s.times(30).map((n) => (n % 10 === 5 ? sql`select 1 / ${0}::int as n` : sql`select ${n}::int as n`)),
    )
    settled.forEach(({ value, reason }, n) => {
      if (n % 10 === 5) assert.equal(reason.code, '22012')
      else assert.equal(value[0].n, n)
    })
  }
  assert.equal((await sql`select count(*)::int from items where id >= ${1000}`)[0].count, s.REPEATS)
}

async function copy() {
  const lines = s.times(3000).map((i) => `${2000 + i}\tGrüße\n`)
  const into = await sql`copy items from stdin`.writable()
  const source = new PassThrough()
  source.end(lines.join(''))
  await pipeline(source, into)
  // Less than a stream's buffer: past it, postgres.js may leave the socket paused at the end, on PostgreSQL itself.
  let text = ''
  const out = await sql`copy (select * from items where id >= 2000 order by id limit 500) to stdout`.readable()
  for await (const chunk of out) text += chunk
  assert.equal(text, lines.slice(0, 500).join(''))
}

async function cursors() {
  let seen = 0
  await sql`select i from generate_series(1, ${1000}::int) i`.cursor(100, (rows) => {
    seen += rows.length
  })
  assert.equal(seen, 1000)
}

async function largeValues() {
  for (const _ of s.times(2)) {
    const [found] = await sql`select ${s.LARGE_TEXT}::text as t, ${s.LARGE_BYTES}::bytea as b`
    assert.equal(found.t, s.LARGE_TEXT)
    assert.ok(found.b.equals(s.LARGE_BYTES))
  }
}

async function cancel() {
  const waiting = sql`select pg_sleep(15) /* postgres.js waits */`.execute()
  while (!(await sql.unsafe(s.isRunning('postgres.js waits')))[0].running);
  waiting.cancel()
  await s.fails('57014', () => waiting)
  assert.equal((await sql`select ${1}::int as n`)[0].n, 1)
}

async function timeouts() {
  await sql.begin(async (tx) => {
    await tx`set local statement_timeout = '80ms'`
    await s.fails('57014', () => tx.savepoint((sp) => sp`select pg_sleep(${15})`))
  })
  const other = postgres({ max: 1, connection: { statement_timeout: 80 } })
  await s.fails('57014', () => other`select pg_sleep(${15})`)
  assert.equal((await other`show statement_timeout`)[0].statement_timeout, '80ms')
  await other.end()
}

// Outside a transaction the driver tries again by itself: the application sees no error. Inside it sees one.
async function ddl() {
  const one = postgres({ max: 1 })
  for (const statement of s.SHAPES) await sql.unsafe(statement)
  const row = async (on) => ({ ...(await on`select * from shapes where id = ${7}`)[0] })
  const value = async (on) => (await on`select n from shapes where id = ${7}`)[0].n
  for (const _ of s.times(s.REPEATS)) {
    assert.deepEqual(await row(one), { id: 7, n: 70 })
    assert.equal(await value(one), 70)
  }
  for (const [change, expected] of s.CHANGES) {
    await sql.unsafe(change)
    for (const _ of s.times(s.REPEATS)) {
      // In turn: it hangs, on PostgreSQL itself, when two stale statements are on their way on one connection.
      for (const on of [one, sql]) {
        assert.deepEqual(await row(on), expected)
        assert.equal(await value(on), expected.n)
      }
    }
  }
  await sql`alter table shapes add column more int default 1`
  const inTransaction = () => one.begin(async (tx) => [await row(tx), await value(tx)])
  const last = { ...s.CHANGES.at(-1)[1], more: 1 }
  assert.deepEqual(await s.settled(inTransaction), [last, last.n])
  assert.deepEqual(await inTransaction(), [last, last.n])
  await one.end()
}

async function notifications() {
  const heard = new Promise((resolve) => {
    const payloads = []
    sql
      .listen('news', (payload) => {
        payloads.push(payload)
        if (payloads.length === 2) resolve(payloads)
      })
      .then(async () => {
        await sql.notify('news', 'first')
        await sql.notify('elsewhere', 'unheard')
        await sql.begin((tx) => tx`notify news, 'second'`)
      })
  })
  assert.deepEqual(await heard, ['first', 'second'])
}

async function manyClients() {
  await sql`create table work (client int, n int)`
  await sql.end()
  const work = async (index) => {
    const own = postgres({ max: 1 })
    for (const i of s.times(s.ROUNDS)) {
      await own.begin(async (tx) => {
        await tx`insert into work values (${index}, ${i})`
        assert.equal((await tx`select count(*)::int from work where client = ${index}`)[0].count, i + 1)
      })
      const found = await own.unsafe(`select $1::int as n, '${index}' as client`, [i], { prepare: true })
      assert.deepEqual([...found], [{ n: i, client: `${index}` }])
    }
    await own.end()
  }
  await Promise.all(s.times(s.CLIENTS).map(work))
}

s.main([
  transactions,
  manyStatements,
  errors,
  copy,
  cursors,
  largeValues,
  cancel,
  timeouts,
  ddl,
  notifications,
  manyClients,
])
