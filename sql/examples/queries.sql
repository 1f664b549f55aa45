-- Queries by style, joined with metadata. The demo prints each with its answer.

\echo 'The five clips nearest to a description:'
SELECT id FROM clips ORDER BY style <=> esr_embed_text('whispering') LIMIT 5;

\echo 'The same with what is known about them:'
SELECT c.id, c.label, s.name AS speaker, d.name AS dataset, c.path,
       round((c.style <=> esr_embed_text('whispering'))::numeric, 3) AS distance
FROM clips c JOIN speakers s ON s.id = c.speaker_id JOIN datasets d ON d.id = c.dataset_id
ORDER BY c.style <=> esr_embed_text('whispering')
LIMIT 5;

\echo 'By speaker: whose angriest clip is the angriest?'
SELECT s.name AS speaker, best.label, best.path, round(best.distance::numeric, 3) AS distance
FROM speakers s
CROSS JOIN LATERAL (
    SELECT c.label, c.path, c.style <=> esr_embed_text('an angry voice') AS distance
    FROM clips c WHERE c.speaker_id = s.id ORDER BY distance LIMIT 1
) best
ORDER BY best.distance
LIMIT 5;

\echo 'By data set: how many of the fifty most cheerful clips does each one have?'
SELECT d.name AS dataset, count(*) AS clips, string_agg(DISTINCT nearest.label, ', ') AS labels
FROM (
    SELECT dataset_id, label FROM clips ORDER BY style <=> esr_embed_text('cheerful, happy speech') LIMIT 50
) nearest JOIN datasets d ON d.id = nearest.dataset_id
GROUP BY d.name ORDER BY clips DESC;

\echo 'By label excluded: what sounds sad though nobody labelled it so?'
SELECT c.label, s.name AS speaker, c.path,
       round((c.style <=> esr_embed_text('a sad, tearful voice'))::numeric, 3) AS distance
FROM clips c JOIN speakers s ON s.id = c.speaker_id
WHERE c.label IS DISTINCT FROM 'sad'
ORDER BY c.style <=> esr_embed_text('a sad, tearful voice')
LIMIT 5;
