// A screener's day in a real browser: open the list, read a why-card, attest a boundary case, record consent, see the
// flag in the EHR; the result is corrected; the flag goes inactive and the list says why. Then an adverse event of the trial
// that says too little is completed.
const assert = require('node:assert');
const path = require('node:path');
const { chromium } = require('playwright-core');

const [, , base, shots] = process.argv;

async function until(what, probe) {
  const deadline = Date.now() + 30_000;
  for (;;) {
    const found = await probe();
    if (found) return found;
    if (Date.now() > deadline) throw new Error(`not within 30 s: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
}

(async () => {
  const browser = await chromium.launch({
    executablePath: '/usr/bin/chromium',
    args: ['--no-sandbox', '--disable-gpu', '--disable-background-networking', '--disable-sync', '--no-first-run'],
  });
  const page = await browser.newPage({ viewport: { width: 1400, height: 1000 } });
  const errors = [];
  page.on('pageerror', (error) => errors.push(String(error)));
  page.on('console', (message) => message.type() === 'error' && errors.push(message.text()));
  page.on('request', (request) => assert(request.url().startsWith(base), `the page asks another host: ${request.url()}`));
  const shot = (name) => page.screenshot({ path: path.join(shots, `${name}.png`), fullPage: true });

  await page.goto(base);
  await page.waitForSelector('[data-test=row]');
  await shot('1-list');

  // A subject whose eGFR lies where exact, rounded and truncated reading of the range disagree.
  const { studies } = await (await fetch(`${base}/api/studies`)).json();
  const study = studies.find((one) => one.criteria.some((criterion) => criterion.stage === 'screening')).id;
  const unknown = await (await fetch(`${base}/api/studies/${study}/subjects?prescreen=unknown`)).json();
  const cards = await Promise.all(unknown.rows.map(async (row) => (await fetch(`${base}/api/studies/${study}/sites/${row.site}/subjects/${row.subject}`)).json()));
  const boundary = cards.find((card) => {
    const open = card.assessment.criteria.filter((criterion) => criterion.stage === 'prescreen' && criterion.verdict !== 'met');
    return open.length === 1 && open[0].reason === 'boundary';
  });
  assert(boundary, 'the demo has no boundary case');
  const { site, subject } = boundary.row;
  const criterion = boundary.assessment.criteria.find((one) => one.reason === 'boundary');

  const card = `${base}/studies/${study}/sites/${site}/subjects/${subject}`;
  await page.goto(card);
  await shot('2-card-boundary');
  const article = page.locator(`[data-criterion="${criterion.id}"]`);
  await article.locator('[data-test=attest] summary').click();
  await article.locator('input[name=passes][value=true]').check();
  await fillWho(article, 'Investigator read the exact value as inside the range');
  await article.getByRole('button', { name: 'Attest' }).click();
  await page.waitForSelector('[data-test=saved]');
  assert.equal(await page.locator('[data-test=verdict]').getAttribute('data-verdict'), 'met');

  const consent = page.locator('[data-test=decide-consent-true]');
  await consent.locator('summary').click();
  await fillWho(consent, 'Signed today at the clinic');
  await consent.getByRole('button').click();
  await page.waitForSelector('[data-test=saved]');

  // The flag arrives in the EHR, by the gateway's own proof and by a look of ours.
  const item = async () => (await (await fetch(`${base}/api/studies/${study}/sites/${site}/subjects/${subject}`)).json()).outbox.find(
    (one) => one.resource_type === 'Flag' && one.purpose === 'annotate' && one.state === 'confirmed');
  const first = await until('the flag is confirmed', item);
  const ehr = `${base}/ehr/fhir`;
  const readFlag = async () => (await fetch(`${ehr}/Flag/${first.server_id.replace(/^Flag\//, '')}`)).json();
  assert.equal((await readFlag()).status, 'active');
  await page.reload();
  await shot('3-card-consented');

  // The laboratory corrects the result that counted: well above the range now.
  const used = criterion.evidence.find((one) => one.role === 'used');
  const source = await (await fetch(`${base}/fhir/${site}/${used.resource}`)).json();
  source.meta = { ...source.meta, versionId: String(Number(source.meta?.versionId ?? '1') + 1), lastUpdated: new Date().toISOString() };
  source.status = 'corrected';
  source.issued = new Date().toISOString();
  source.valueQuantity.value = used.unit_used === 'umol/L' ? 80 : 0.9;
  const put = await fetch(`${base}/fhir/${site}/${used.resource}`, { method: 'PUT', headers: { 'content-type': 'application/fhir+json' }, body: JSON.stringify(source) });
  assert(put.ok, `the correction was answered ${put.status}`);
  await until('the flag is inactive in the EHR', async () => (await readFlag()).status === 'inactive');
  await page.goto(`${base}/?study=${study}&sort=changed`);
  const row = page.locator(`[data-test=row][data-subject="${subject}"]`);
  assert.match(await row.innerText(), /was/);
  assert.match(await row.innerText(), /eGFR/);
  await shot('4-list-corrected');
  await page.goto(card);
  await shot('5-card-corrected');
  await page.goto(`${base}/sites/${site}/quarantine`);
  await shot('6-quarantine');

  // The trial: an event of the hospital's says too little, so its report is overdue until a person says what it was.
  await page.goto(base);
  await page.locator('[data-test=trial]').click();
  await shot('7-safety');
  const safety = async () => (await fetch(`${base}/api/studies/${study}/safety`)).json();
  const late = (await safety()).clocks.find((one) => one.standing.state === 'overdue');
  assert(late?.standing.assumed.includes('seriousness'), 'the demo has no report that is overdue because nobody said enough');
  const event = page.locator(`[data-test=to-complete][data-event="${late.event}"]`);
  await event.locator('[data-test=axes] > summary').click();
  for (const [name, value] of [['grade', '1'], ['is-serious', 'false'], ['relation', 'possible'], ['is-expected', 'true'], ['outcome', 'resolved']]) {
    await event.locator(`select[name=${name}]`).selectOption(value);
  }
  await fillWho(event, 'Examined at the visit, well again the next day');
  await event.getByRole('button', { name: 'Record my judgement' }).click();
  await page.waitForSelector('[data-test=saved]');
  assert.equal(await event.count(), 0, 'what is complete waits no longer');
  assert(!(await safety()).clocks.some((one) => one.event === late.event), 'no clock runs for an event that is not serious');
  await page.goto(`${base}/studies/${study}/visits`);
  assert(await page.locator('[data-test=row] [data-state=overdue]').count(), 'the demo has no overdue visit');
  await shot('8-visits');
  assert.deepEqual(errors, [], 'the pages log errors');
  await browser.close();
  console.log(`browser: attested, consented, flagged, corrected and un-flagged ${subject}, completed an adverse event; screenshots in ${shots}`);

  async function fillWho(form, reason) {
    const by = form.locator('input[name=by]');
    if (await by.count()) await by.fill('Dr. Demo Screener');
    await form.locator('textarea[name=reason]').fill(reason);
  }
})().catch((error) => { console.error(error); process.exit(1); });
