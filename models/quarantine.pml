/*
 * Quarantine of one command, N, that is committed and that nobody has applied in the beginning.
 *
 * Three voters. Which of them crash on N is chosen freely, and again at each restart (an upgrade may bring the
 * mistake, or take it away). Raft is abstracted to what matters here: terms, a log behind N of at most LEN entries,
 * each with its term and whether it is the quarantine, votes that need a log as far as the voter's, and commits of
 * entries of the leader's own term.
 *
 * The rules of consensus/core_guard*.go:
 *  - A leader that hears from a majority that they stopped at N asks every voter whether it has applied N, itself too.
 *  - Who says "no" promises not to apply N, until the quarantine is committed or an entry of a later term is.
 *  - One "yes", or "I cannot know", ends the case; so does silence. All "no": the quarantine is proposed.
 *  - It counts when it is committed, ahead of applying. Who applies N later, before it hears of that (a member
 *    that begins again), is built again from below N.
 *  - A loss of power takes the journal along, and with it a promise. Who has lost it applies nothing before its log is
 *    committed as far as a leader has said, and a leader says that only once an entry of its own term is committed, and
 *    not while it decides about a quarantine.
 *
 * What must hold: nobody skips N unless the quarantine is committed, no voter has applied N at that moment, and no client
 * that was told that N is done, or that read what N did, sees it undone.
 *
 * Planted mistakes, each of which must be found (tools/spin):
 * mistake: QUARANTINE_AFTER_APPLIED
 * mistake: NO_PROMISE
 * mistake: PROMISE_LAPSES
 * mistake: JOURNAL_FORGETS
 * mistake: MINORITY_SKIPS
 * mistake: NO_GATE
 * mistake: GATE_OPENS_MEANWHILE
 */
#define NODES 3
#define LEN 2
#define TERMS 3
#define RESTARTS 1
#define NOBODY 9

#define WAIT 0 /* N is not applied */
#define RUN  1 /* N is applied and did what it does */
#define SKIP 2 /* N is applied as a no-op */
#define STOP 3 /* crashed on N, applies no more */

#define T(i, e) lt[(i) * LEN + (e)]
#define Q(i, e) lq[(i) * LEN + (e)]

byte term[NODES];
byte lt[6];        /* term of each entry behind N */
bit lq[6];         /* it is the quarantine */
byte end[NODES];   /* entries behind N */
byte commit[NODES]; /* of the entries behind N; volatile */
byte leader = 0;
byte lterm = 1;
byte st[NODES];
bit crashes[NODES];
bit journal[NODES]; /* it has applied N, and knows it after a restart */
bit maybe[NODES];   /* lost its journal: cannot know */
bit gate[NODES];    /* applies nothing before it has heard what is committed */
byte until[NODES];  /* it has heard: that many entries behind N, plus one */
byte hold[NODES];   /* promised to the leader of that term, 0 = free */
bit no[NODES];      /* answered the leader of lterm */
bit asking;
bit waiting = 1;    /* a client waits at node 0, which proposed N */
bit told;           /* a client was told that N is done, or has read it */
bit qdone;          /* the quarantine is committed */
byte restarts;
byte i, j, n, e;
bit ok;

#define LASTTERM(x) (end[x] == 0 -> 1 : T(x, end[x] - 1))

/* knows(x): the quarantine is among what x knows to be committed */
#define KNOWS(x) ((commit[x] > 0 && Q(x, 0)) || (commit[x] > 1 && Q(x, 1)))
/* the leader may serve: an entry of its own term is committed */
/* the leader decides about a quarantine, until it has applied one, or has given it up */
#define DECIDES (asking || (end[leader] > 0 && Q(leader, end[leader] - 1) && T(leader, end[leader] - 1) == lterm && commit[leader] < end[leader]))
#define CONFIRMED (leader != NOBODY && commit[leader] > 0 && T(leader, commit[leader] - 1) == lterm)

inline count_behind(limit) { /* n = voters whose term is at most limit */
	n = 0; j = 0;
	do
	:: j < NODES -> if :: term[j] <= limit -> n++ :: else fi; j++
	:: else -> break
	od
}

inline set_commit() { /* the leader's, for entries of its own term on a majority */
	e = end[leader];
	do
	:: e > commit[leader] ->
		if
		:: T(leader, e - 1) == lterm ->
			n = 0; j = 0;
			do
			:: j < NODES ->
				if :: end[j] >= e && T(j, e - 1) == lterm -> n++ :: else fi; j++
			:: else -> break
			od;
			if
			:: n * 2 > NODES -> commit[leader] = e; break
			:: else -> e--
			fi
		:: else -> break
		fi
	:: else -> break
	od;
	if
	:: KNOWS(leader) && !qdone -> qdone = 1; assert(st[0] != RUN && st[1] != RUN && st[2] != RUN)
	:: else
	fi
}

inline release(x) {
	if
#ifdef PROMISE_LAPSES
	:: hold[x] > 0 && term[x] > hold[x] -> hold[x] = 0
#else
	:: hold[x] > 0 && commit[x] > 0 && T(x, commit[x] - 1) > hold[x] -> hold[x] = 0
#endif
	:: else
	fi;
	if
	:: x == leader && gate[x] && CONFIRMED -> gate[x] = 0; until[x] = 0
	:: until[x] > 0 && commit[x] + 1 >= until[x] -> gate[x] = 0; until[x] = 0
	:: else
	fi;
	if
	:: KNOWS(x) && st[x] == RUN -> st[x] = SKIP; journal[x] = 0 /* built again from below N */
	:: KNOWS(x) && st[x] == STOP -> st[x] = SKIP
	:: else
	fi
}

inline apply(x) {
	if
	:: KNOWS(x) -> st[x] = SKIP
	:: else ->
		if
		:: crashes[x] ->
#ifdef MINORITY_SKIPS
			st[x] = SKIP
#else
			st[x] = STOP
#endif
		:: else ->
			st[x] = RUN;
#ifndef JOURNAL_FORGETS
			journal[x] = 1;
#endif
			if
			:: x == 0 && waiting -> told = 1; waiting = 0
			:: else
			fi
		fi
	fi
}

#define ALLOWED(x) (st[x] == WAIT && ((hold[x] == 0 && !gate[x]) || KNOWS(x)))

inline check() {
	assert(!(told && qdone));
	assert(st[0] != SKIP || qdone);
	assert(st[1] != SKIP || qdone);
	assert(st[2] != SKIP || qdone);
}

inline pick() { if :: i = 0 :: i = 1 :: i = 2 fi }

active proctype system() {
	term[0] = 1; term[1] = 1; term[2] = 1;
	i = 0;
	do
	:: i < NODES -> if :: crashes[i] = 0 :: crashes[i] = 1 fi; i++
	:: else -> break
	od;
	crashes[1] >= crashes[2]; /* the two are alike until now */
	do
	:: atomic { /* apply */
		pick(); ALLOWED(i); apply(i); check(); i = 0; j = 0; n = 0; e = 0 }
	:: atomic { /* the leader serves a read: everything that is committed is applied, and N with it */
		CONFIRMED && st[leader] == RUN && !KNOWS(leader);
		count_behind(lterm); n * 2 > NODES; told = 1; check(); i = 0; j = 0; n = 0; e = 0 }
	:: atomic { /* an election */
		lterm < TERMS; pick(); i != leader;
		n = 1; j = 0;
		do
		:: j < NODES ->
			if
			:: j != i && term[j] <= lterm &&
			   (LASTTERM(i) > LASTTERM(j) || (LASTTERM(i) == LASTTERM(j) && end[i] >= end[j])) ->
				if :: n++; term[j] = lterm + 1 :: skip fi
			:: else
			fi;
			j++
		:: else -> break
		od;
		if
		:: n * 2 > NODES && end[i] < LEN ->
			lterm++; leader = i; term[i] = lterm; asking = 0; no[0] = 0; no[1] = 0; no[2] = 0;
			T(i, end[i]) = lterm; Q(i, end[i]) = 0; end[i]++;
			release(i)
		:: else -> leader = NOBODY; asking = 0; lterm++; /* the votes are gone, nobody won */
			no[0] = 0; no[1] = 0; no[2] = 0
		fi;
		i = 0; j = 0; n = 0; e = 0 }
	:: atomic { /* replicate to i, with the commit index */
		leader != NOBODY; pick(); i != leader && term[i] <= lterm && term[leader] == lterm;
		term[i] = lterm;
		e = 0;
		do
		:: e < end[leader] -> T(i, e) = T(leader, e); Q(i, e) = Q(leader, e); e++
		:: else -> break
		od;
		/* what is beyond the leader's log conflicts with its next entry; what is not committed may go */
		do
		:: e < LEN -> T(i, e) = 0; Q(i, e) = 0; e++
		:: else -> break
		od;
		end[i] = end[leader];
		set_commit();
		if
		:: commit[leader] > commit[i] -> if :: commit[i] = commit[leader] :: skip fi /* it may hear of the commit later */
		:: else
		fi;
		release(i); release(leader);
		check(); i = 0; j = 0; n = 0; e = 0 }
	:: atomic { /* the leader tells one that has lost its journal what is committed */
		CONFIRMED; pick(); i != leader && gate[i] && until[i] == 0 && term[i] == lterm && term[leader] == lterm;
#ifndef GATE_OPENS_MEANWHILE
		!DECIDES;
#endif
		until[i] = commit[leader] + 1;
		release(i);
		check(); i = 0; j = 0; n = 0; e = 0 }
	:: atomic { /* a majority says that it stopped at N: the leader begins to ask */
		leader != NOBODY && !asking && term[leader] == lterm;
		n = 0;
		if :: st[0] == STOP -> n++ :: else fi;
		if :: st[1] == STOP -> n++ :: else fi;
		if :: st[2] == STOP -> n++ :: else fi;
		n * 2 > NODES; !KNOWS(leader);
		asking = 1; i = 0; j = 0; n = 0; e = 0 }
	:: atomic { /* i answers, itself too */
		asking; pick(); term[i] <= lterm && !no[i]; term[i] = lterm;
		if
#ifndef QUARANTINE_AFTER_APPLIED
		:: st[i] == RUN || journal[i] || maybe[i] -> asking = 0; no[0] = 0; no[1] = 0; no[2] = 0
		:: else ->
#else
		:: true ->
#endif
			no[i] = 1;
#ifndef NO_PROMISE
			hold[i] = lterm;
#endif
		fi;
		i = 0; j = 0; n = 0; e = 0 }
	:: atomic { /* all said no */
		asking && no[0] && no[1] && no[2] && leader != NOBODY && term[leader] == lterm && end[leader] < LEN;
		T(leader, end[leader]) = lterm; Q(leader, end[leader]) = 1; end[leader]++;
		asking = 0; no[0] = 0; no[1] = 0; no[2] = 0 }
	:: atomic { /* a restart: memory is gone, log, term and journal are not; after a loss of power the journal is */
		restarts < RESTARTS; pick(); restarts++;
		st[i] = WAIT; commit[i] = 0;
		if :: i == 0 -> waiting = 0 :: else fi;
		if
		:: i == leader -> leader = NOBODY; asking = 0; no[0] = 0; no[1] = 0; no[2] = 0
		:: else
		fi;
		if :: crashes[i] = 0 :: crashes[i] = 1 fi;
		if
		:: skip
		:: maybe[i] = 1; hold[i] = 0; journal[i] = 0;
#ifndef NO_GATE
			gate[i] = 1; until[i] = 0
#endif
		fi;
		i = 0 }
	od
}
