//! The plan node "Esr Exact Scan": planned when and only when it applies, and then with the same result as PostgreSQL's
//! own scan and sort.

mod common;

use common::ranking::{Ranking, assert_same, check, cluster, fill, plan, ranking, switch, to_ranking, uses_node};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const SEED: u64 = 20;

#[test]
fn it_finds_what_sorting_everything_finds() {
    let cluster = cluster();
    let mut session = cluster.connect().unwrap();
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    fill(&mut session, "t", 700, &mut random);
    session.batch_execute("ANALYZE t").unwrap();
    let queries = [
        "'[0.5,-0.25,1,0,2]'::esr_vector",
        "'[0,0,0,0,0]'::esr_vector",
        "(SELECT NULL::esr_vector FROM t LIMIT 1)",
        "(SELECT style FROM t WHERE style IS NOT NULL ORDER BY id LIMIT 1)",
    ];
    let filters =
        ["true", "kind = 1", "kind <> 3 AND note IS NOT NULL", "id + kind < 0", "style IS NOT NULL AND id % 7 = 0"];
    let limits = ["LIMIT 0", "LIMIT 1", "LIMIT 10", "LIMIT 7 OFFSET 5", "LIMIT 3 OFFSET 2000", "LIMIT 5000"];
    for operator in ["<=>", "<->", "<#>"] {
        for query in queries {
            for filter in filters {
                let limit = limits[random.random_range(0..limits.len())];
                let distance = if random.random() {
                    format!("style {operator} {query}")
                } else {
                    format!("{query} {operator} style")
                };
                check(
                    &mut session,
                    &format!("SELECT id, {distance} FROM t WHERE {filter} ORDER BY {distance} {limit}"),
                );
            }
        }
    }
    for limit in limits {
        let all = check(&mut session, &format!("SELECT id, style <=> '[1,2,3,4,5]' AS d FROM t ORDER BY d {limit}"));
        if limit == "LIMIT 5000" {
            assert_eq!(all.len(), 700, "rows without a distance come too, last");
            assert_eq!(all[699].1, None);
        }
    }
}

#[test]
fn it_is_planned_only_where_it_applies() {
    let cluster = cluster();
    let mut session = cluster.connect().unwrap();
    session
        .batch_execute(
            "CREATE TABLE t (id int, style esr_vector(3), other esr_vector(3));
             INSERT INTO t SELECT i, ARRAY[i % 7, i % 11, 1]::real[]::esr_vector FROM generate_series(1, 500) i;
             ANALYZE t;
             CREATE MATERIALIZED VIEW m AS SELECT * FROM t;
             CREATE TEMP TABLE temporary AS SELECT * FROM t;
             CREATE VIEW v AS SELECT id, style FROM t WHERE id > 3;
             CREATE TABLE parent (id int, style esr_vector(3)) PARTITION BY RANGE (id);
             CREATE TABLE child PARTITION OF parent FOR VALUES FROM (0) TO (1000);
             INSERT INTO parent SELECT id, style FROM t;
             CREATE FUNCTION near(k int) RETURNS SETOF int LANGUAGE plpgsql AS $$ BEGIN
                 RETURN QUERY SELECT id FROM t ORDER BY style <=> '[1,2,3]' LIMIT k; END $$;
             CREATE FUNCTION volatile_vector() RETURNS esr_vector LANGUAGE plpgsql VOLATILE AS $$ BEGIN RETURN '[1,2,3]'; END $$;",
        )
        .unwrap();
    let applies = [
        "SELECT id FROM t ORDER BY style <=> '[1,2,3]' LIMIT 5",
        "SELECT id FROM t ORDER BY '[1,2,3]' <-> style LIMIT 5 OFFSET 2",
        "SELECT * FROM t ORDER BY esr_l2_distance(style, '[1,2,3]') FETCH FIRST 5 ROWS ONLY",
        "SELECT ctid, tableoid FROM t ORDER BY style <#> '[1,2,3]' LIMIT 5",
        "SELECT id FROM v ORDER BY style <=> '[1,2,3]' LIMIT 5",
        "SELECT id FROM m ORDER BY style <=> '[1,2,3]' LIMIT 5",
        "SELECT id FROM temporary ORDER BY style <=> '[1,2,3]' LIMIT 5",
        "SELECT id FROM child ORDER BY style <=> '[1,2,3]' LIMIT 5",
        "SELECT id FROM t ORDER BY style <=> (SELECT style FROM t WHERE id = 1) LIMIT 5",
        "SELECT count(*) FROM (SELECT id FROM t ORDER BY style <=> '[1,2,3]' LIMIT 5) AS nearest",
        "WITH nearest AS (SELECT id FROM t ORDER BY style <=> '[1,2,3]' LIMIT 5) SELECT * FROM nearest JOIN t USING (id)",
        "SELECT * FROM t a, LATERAL (SELECT id FROM t b ORDER BY b.style <=> a.style LIMIT 1) AS nearest",
        "SELECT id FROM t WHERE style <-> '[1,2,3]' < 100 ORDER BY style <-> '[1,2,3]' LIMIT 5",
        "UPDATE t SET other = style WHERE id IN (SELECT id FROM t ORDER BY style <=> '[1,2,3]' LIMIT 5)",
    ];
    let does_not = [
        "SELECT id FROM t ORDER BY style <=> '[1,2,3]'",
        "SELECT id FROM t ORDER BY style <=> '[1,2,3]' LIMIT ALL",
        "SELECT id FROM t ORDER BY style <=> '[1,2,3]' LIMIT NULL",
        "SELECT id FROM t ORDER BY style <=> '[1,2,3]' DESC LIMIT 5",
        "SELECT id FROM t ORDER BY style <=> '[1,2,3]' NULLS FIRST LIMIT 5",
        "SELECT id FROM t ORDER BY style <=> '[1,2,3]', id LIMIT 5",
        "SELECT id FROM t ORDER BY id, style <=> '[1,2,3]' LIMIT 5",
        "SELECT id FROM t ORDER BY -(style <=> '[1,2,3]') LIMIT 5",
        "SELECT id FROM t ORDER BY style <=> other LIMIT 5",
        "SELECT id FROM t ORDER BY style <=> style LIMIT 5",
        "SELECT id FROM t ORDER BY style + '[1,1,1]' <=> '[1,2,3]' LIMIT 5",
        "SELECT id FROM t ORDER BY '[1,2,3]'::esr_vector <=> '[1,2,3]' LIMIT 5",
        "SELECT id FROM t ORDER BY style <=> volatile_vector() LIMIT 5",
        "SELECT id FROM t ORDER BY esr_inner_product(style, '[1,2,3]') LIMIT 5",
        "SELECT id FROM t ORDER BY style <=> '[1,2,3]' FETCH FIRST 5 ROWS WITH TIES",
        "SELECT id FROM t ORDER BY style <=> '[1,2,3]' LIMIT 5 FOR UPDATE",
        "SELECT id FROM t ORDER BY style <=> '[1,2,3]' LIMIT (SELECT 5)",
        "SELECT DISTINCT ON (style <=> '[1,2,3]') id FROM t ORDER BY style <=> '[1,2,3]' LIMIT 5",
        "SELECT DISTINCT style <=> '[1,2,3]' FROM t ORDER BY 1 LIMIT 5",
        "SELECT style <=> '[1,2,3]' FROM t GROUP BY 1 ORDER BY 1 LIMIT 5",
        "SELECT id, count(*) OVER () FROM t ORDER BY style <=> '[1,2,3]' LIMIT 5",
        "SELECT generate_series(1, 3) FROM t ORDER BY style <=> '[1,2,3]' LIMIT 5",
        "SELECT t.id FROM t JOIN m USING (id) ORDER BY t.style <=> '[1,2,3]' LIMIT 5",
        "SELECT a.id FROM t a LEFT JOIN t b ON a.id = b.id + 1 ORDER BY a.style <=> '[1,2,3]' LIMIT 5",
        "SELECT id FROM parent ORDER BY style <=> '[1,2,3]' LIMIT 5",
        "SELECT id FROM t UNION ALL SELECT id FROM m ORDER BY 1 LIMIT 5",
        "SELECT id FROM t TABLESAMPLE bernoulli (50) ORDER BY style <=> '[1,2,3]' LIMIT 5",
        "SELECT i FROM generate_series(1, 9) i ORDER BY '[1,2,3]'::esr_vector <=> ARRAY[i, 2, 3]::real[]::esr_vector LIMIT 5",
        "SELECT id FROM t WHERE id = 4 ORDER BY id LIMIT 5",
    ];
    for sql in applies {
        assert!(uses_node(&mut session, sql), "not planned for {sql}:\n{}", plan(&mut session, sql));
        session.batch_execute(sql).unwrap();
    }
    for sql in does_not {
        assert!(!uses_node(&mut session, sql), "planned for {sql}");
        session.batch_execute(sql).unwrap();
    }
    let explained = plan(&mut session, "SELECT id FROM t WHERE id > 9 ORDER BY style <=> '[1,2,3]' LIMIT 5 OFFSET 2");
    assert_eq!(
        explained,
        "Limit\n  ->  Custom Scan (Esr Exact Scan) on t\n        Filter: (id > 9)\n        \
         Order By: (style <=> '[1,2,3]'::esr_vector)\n        Rows Kept: 7\n"
    );
    let near: i64 = session.query_one("SELECT count(*) FROM near(7)", &[]).unwrap().get(0);
    assert_eq!(near, 7);
    // More rows than work_mem can keep.
    session.batch_execute("SET work_mem = '64kB'; SET enable_sort = off").unwrap();
    assert!(uses_node(&mut session, "SELECT id FROM t ORDER BY style <=> '[1,2,3]' LIMIT 4000"));
    assert!(!uses_node(&mut session, "SELECT id FROM t ORDER BY style <=> '[1,2,3]' LIMIT 5000"));
    // The first statement of a session, which names no function of ours but the operator's.
    let mut fresh = cluster.connect().unwrap();
    assert!(uses_node(&mut fresh, "SELECT id FROM t ORDER BY style <=> (SELECT style FROM t WHERE id = 1) LIMIT 5"));
}

#[test]
fn it_sees_what_its_snapshot_sees() {
    let cluster = cluster();
    let mut session = cluster.connect().unwrap();
    fill(&mut session, "t", 300, &mut ChaCha8Rng::seed_from_u64(SEED + 1));
    let query = "SELECT id, style <-> '[1,0,0,0,0]' AS d FROM t ORDER BY d LIMIT 20";
    session.batch_execute("BEGIN").unwrap();
    let original = check(&mut session, query);
    session.batch_execute(&format!("DECLARE before SCROLL CURSOR FOR {query}")).unwrap();
    session.batch_execute("DELETE FROM t WHERE id % 3 = 0").unwrap();
    session.batch_execute("UPDATE t SET style = style + '[0.5,0,0,0,0]', note = NULL WHERE id % 5 = 0").unwrap();
    session.batch_execute("INSERT INTO t VALUES (900, 1, 'new', '[1,0,0,0,0]')").unwrap();
    let changed = check(&mut session, query);
    assert_eq!(changed[0], (900, Some("0.0".into())));
    assert!(changed.iter().all(|(id, _)| id % 3 != 0 || *id == 900));
    // A cursor keeps the snapshot it was opened with.
    assert_eq!(ranking(&mut session, "FETCH 5 FROM before"), original[..5]);
    assert_eq!(ranking(&mut session, "FETCH BACKWARD 2 FROM before"), [original[3].clone(), original[2].clone()]);
    assert_eq!(ranking(&mut session, "FETCH ALL FROM before"), original[3..]);
    session.batch_execute("SAVEPOINT s; DELETE FROM t; ROLLBACK TO s").unwrap();
    assert_eq!(check(&mut session, query), changed);
    session
        .batch_execute("DECLARE held CURSOR WITH HOLD FOR SELECT id FROM t ORDER BY style <=> '[1,0,0,0,0]' LIMIT 9")
        .unwrap();
    session.batch_execute("COMMIT").unwrap();
    session.batch_execute("VACUUM t").unwrap();
    assert_eq!(session.query("FETCH ALL FROM held", &[]).unwrap().len(), 9);
    assert_eq!(check(&mut session, query), changed);
    // What others have not committed is not seen, what they have is.
    let mut other = cluster.connect().unwrap();
    other
        .batch_execute("BEGIN; INSERT INTO t VALUES (901, 1, 'new', '[1,0,0,0,0]'); DELETE FROM t WHERE id = 900")
        .unwrap();
    assert_eq!(check(&mut session, query), changed);
    other.batch_execute("COMMIT").unwrap();
    assert_eq!(check(&mut session, query)[0].0, 901);
}

#[test]
fn prepared_correlated_and_parallel_queries_agree() {
    let cluster = cluster();
    let mut session = cluster.connect().unwrap();
    fill(&mut session, "t", 200, &mut ChaCha8Rng::seed_from_u64(SEED + 2));
    session.batch_execute("CREATE TABLE q AS SELECT id, style FROM t WHERE id % 20 = 0; ANALYZE t; ANALYZE q").unwrap();
    // Each row of q sends the scan round again with another vector.
    for inner in ["", "WHERE t.kind <> q.id % 5"] {
        let sql = format!(
            "SELECT q.id * 100 + n.place::int, n.d FROM q, LATERAL (
                 SELECT row_number() OVER () AS place, d FROM (
                     SELECT style <=> q.style AS d FROM t {inner} ORDER BY style <=> q.style LIMIT 3) AS nearest) AS n"
        );
        check(&mut session, &sql);
    }
    // The inner side of a nested loop that no parameter changes.
    let sql = "SELECT q.id * 1000 + n.id, n.d FROM q LEFT JOIN
               (SELECT id, style <-> '[1,1,1,1,1]' AS d FROM t ORDER BY d LIMIT 3) AS n ON n.id <> q.id + 1";
    session.batch_execute("SET enable_material = off; SET enable_hashjoin = off").unwrap();
    check(&mut session, sql);
    session.batch_execute("RESET ALL").unwrap();

    for mode in ["force_custom_plan", "force_generic_plan"] {
        session.batch_execute(&format!("SET plan_cache_mode = {mode}")).unwrap();
        let sql = "SELECT id, style <=> $1::real[]::esr_vector AS d FROM t WHERE kind <> $2 ORDER BY d LIMIT 9";
        let statement = session.prepare(sql).unwrap();
        let mut results: Vec<Ranking> = Vec::new();
        for on in [true, false] {
            switch(&mut session, on);
            for shift in 0..3 {
                let vector: Vec<f32> = (0..5).map(|i| ((i + shift) % 3) as f32).collect();
                let rows = session.query(&statement, &[&vector, &shift]).unwrap();
                results.push(to_ranking(&rows));
            }
        }
        for shift in 0..3 {
            assert_same(&results[shift], &results[shift + 3], sql);
        }
        switch(&mut session, true);
        session.batch_execute("PREPARE p AS SELECT id FROM t ORDER BY style <=> $1 LIMIT 9").unwrap();
        assert!(uses_node(&mut session, "EXECUTE p ('[1,2,3,4,5]')"));
        session.batch_execute("PREPARE l AS SELECT id FROM t ORDER BY style <=> '[1,2,3,4,5]' LIMIT $1").unwrap();
        assert_eq!(uses_node(&mut session, "EXECUTE l (5)"), mode == "force_custom_plan");
        session.batch_execute("DEALLOCATE ALL").unwrap();
    }

    session.batch_execute("SET force_parallel_mode = on; SET parallel_setup_cost = 0").unwrap();
    let sql = "SELECT id, style <=> '[1,2,3,4,5]' AS d FROM t WHERE kind > 1 ORDER BY d LIMIT 9";
    assert!(plan(&mut session, sql).contains("Gather"));
    check(&mut session, sql);
}
