-- The demo's schema: speech clips beside the metadata that people keep about them.
-- Used by `make demo`; start your own from it.

CREATE EXTENSION IF NOT EXISTS esr;

CREATE TABLE IF NOT EXISTS datasets (
    id      integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name    text NOT NULL UNIQUE,
    licence text,
    source  text
);

CREATE TABLE IF NOT EXISTS speakers (
    id         integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    dataset_id integer NOT NULL REFERENCES datasets,
    name       text NOT NULL,
    UNIQUE (dataset_id, name)
);

CREATE TABLE IF NOT EXISTS clips (
    id         integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    dataset_id integer NOT NULL REFERENCES datasets,
    speaker_id integer REFERENCES speakers,
    path       text NOT NULL,       -- where the file came from
    label      text,                -- what its owner says of its style, if anything; esr never reads it
    transcript text,
    language   text,
    audio      bytea NOT NULL,      -- the file itself: WAV, FLAC, Ogg Vorbis, MP3, M4A
    style      esr_vector(512),     -- filled by the trigger below
    UNIQUE (dataset_id, path)
);

-- Sound does not get smaller by PostgreSQL's compression, and trying takes most of the time of a COPY.
ALTER TABLE clips ALTER audio SET STORAGE EXTERNAL;

-- From here on every INSERT, and every UPDATE of audio, embeds the clip.
SELECT esr_attach('clips', 'audio', 'style', mode => 'sync')
WHERE NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = 'clips'::regclass AND tgname LIKE 'esr%');
