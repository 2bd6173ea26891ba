/*
 * Replacement of a core member: a voter's place goes to a new id, by a joint change.
 *
 * Three voters, 0 to 2, and the id 3, which is new: it begins empty, learns, and may take the place of a voter. That
 * voter may be dead, have lost its disk, or be alive and only away, which nobody can tell; it is 1 or 2, as 0 leads in
 * the beginning. One disk may be lost at any time, that of 0 or of 1, which is like 2. Raft is abstracted to what matters here: terms, logs of at most LEN entries (W, a write; J, a change, with
 * the voters after it; F, its end), votes that need a log as far as the voter's, commits of entries of the leader's own
 * term, and a set of voters for each node: that of the changes which it knows to be committed, as in the raft library.
 *
 * The rules of consensus/core_plan*.go, core_conf.go and core_gone.go:
 *  - Who has lost its disk never speaks again under its old id.
 *  - A change is joint: from J to F a majority of the old and one of the new voters have to agree.
 *  - Entries come with the leader's commit index, on the wire and to the disk: who has F knows that J is committed.
 *  - One change at a time: the next one begins when F is committed. One voter for one that has caught up.
 *
 * What must hold: a term has one leader, a leader has every write that was acknowledged, and when nothing is being changed
 * and no voter has lost its disk one of them may fail.
 *
 * Planted mistakes, each of which must be found (tools/spin):
 * mistake: REUSE_WIPED_ID
 * mistake: SKIP_JOINT
 * mistake: REPLACE_TWO_AT_ONCE
 * mistake: END_BEFORE_COMMIT
 */
#define NODES 4
#define LEN 3
#define TERMS 2

#define W 1
#define F 4
#define J 16 /* and the set of the new voters, a bit for each */

#define T(x, e) lt[(x) * LEN + (e)]
#define K(x, e) lk[(x) * LEN + (e)]

byte term[NODES];
byte lt[12];          /* term of each entry */
byte lk[12];          /* its kind */
byte end[NODES];
byte commit[NODES];
byte voters[NODES];   /* the set that the node goes by */
byte coming[NODES];   /* the set after the change that is under way, 0 = none */
bit leads[NODES];
byte led[3];          /* who led each term, and one more; 0 = nobody */
bit dead[NODES];      /* lost its disk, and says nothing any more */
bit lost;             /* a disk was lost */
bit acked;            /* a client was told that W is done */
byte i, j, e, n, got;
bit has;

#define IN(x, set) (((set) >> (x)) & 1)
#define COUNT(set) (((set) & 1) + (((set) >> 1) & 1) + (((set) >> 2) & 1) + (((set) >> 3) & 1))
#define MAJORITY(have, set) (COUNT((have) & (set)) * 2 > COUNT(set))
#define AGREED(have, x) (MAJORITY(have, voters[x]) && (coming[x] == 0 || MAJORITY(have, coming[x])))
#define LASTTERM(x) (end[x] == 0 -> 0 : T(x, end[x] - 1))

inline clean() { i = 0; j = 0; e = 0; n = 0; got = 0; has = 0 }

inline pick() { if :: i = 0 :: i = 1 :: i = 2 :: i = 3 fi }
inline pick_other() { if :: j = 0 :: j = 1 :: j = 2 :: j = 3 fi; j != i }

/* apply has node x go by what it knows to be committed, up to n */
inline apply(x) {
	do
	:: commit[x] < n ->
		if
		:: K(x, commit[x]) >= J ->
#ifdef SKIP_JOINT
			voters[x] = K(x, commit[x]) - J
#else
			coming[x] = K(x, commit[x]) - J
#endif
		:: K(x, commit[x]) == F -> voters[x] = coming[x]; coming[x] = 0
		:: else
		fi;
		commit[x]++
	:: else -> break
	od
}

inline advance(x) { /* the leader commits what enough have */
	e = end[x];
	do
	:: e > commit[x] && T(x, e - 1) == term[x] ->
		got = 0; j = 0;
		do
		:: j < NODES ->
			if
			:: !dead[j] && end[j] >= e && T(j, e - 1) == T(x, e - 1) -> got = got | (1 << j)
			:: else
			fi;
			j++
		:: else -> break
		od;
		if
		:: AGREED(got, x) -> n = e; break
		:: else -> e--
		fi
	:: else -> n = commit[x]; break
	od;
	/* one step at a time: what is behind a change is committed by the voters after it */
	if :: n > commit[x] -> n = commit[x] + 1 :: else fi;
	if :: n > commit[x] && K(x, n - 1) == W -> acked = 1 :: else fi;
	apply(x)
}

inline settled(x) { /* the last entry that changes the voters is applied */
	has = 0; e = commit[x];
	do
	:: e < end[x] -> if :: K(x, e) != W -> has = 1 :: else fi; e++
	:: else -> break
	od
}

active proctype system() {
	term[0] = 1; term[1] = 1; term[2] = 1; leads[0] = 1; led[1] = 1;
	voters[0] = 7; voters[1] = 7; voters[2] = 7; voters[3] = 7;
	do
	:: atomic { /* a leader takes a write */
		pick(); leads[i] && end[i] < LEN;
		T(i, end[i]) = term[i]; K(i, end[i]) = W; end[i]++; clean() }
	:: atomic { /* a leader begins a change: 3, which has caught up, for a voter */
		pick(); leads[i] && end[i] < LEN && coming[i] == 0 && !IN(3, voters[i]);
		settled(i); !has;
		end[3] == end[i] && LASTTERM(3) == LASTTERM(i);
		if :: j = 1 :: j = 2 fi; j != i && IN(j, voters[i]);
		got = (voters[i] & (15 - (1 << j))) | 8;
#ifdef REPLACE_TWO_AT_ONCE
		if
		:: j != 0 && i != 0 -> got = got & 14
		:: j != 1 && i != 1 -> got = got & 13
		:: j != 2 && i != 2 -> got = got & 11
		fi;
#endif
		T(i, end[i]) = term[i]; K(i, end[i]) = J + got; end[i]++; clean() }
	:: atomic { /* a leader ends the change */
		pick(); leads[i] && end[i] < LEN && coming[i] != 0;
		settled(i); !has;
		T(i, end[i]) = term[i]; K(i, end[i]) = F; end[i]++; clean() }
	:: atomic { /* a leader replicates to j, with what it knows to be committed, and commits */
		pick(); leads[i]; pick_other(); !dead[j] && term[j] <= term[i];
		if :: term[j] < term[i] -> leads[j] = 0 :: else fi;
		term[j] = term[i];
		e = 0;
		do
		:: e < LEN -> T(j, e) = (e < end[i] -> T(i, e) : 0); K(j, e) = (e < end[i] -> K(i, e) : 0); e++
		:: else -> break
		od;
		end[j] = end[i];
		n = commit[i];
#ifdef END_BEFORE_COMMIT
		if :: skip :: n = commit[j] fi;
#endif
		if :: n > commit[j] -> apply(j) :: else fi;
		advance(i);
		/* the others of a change that is over may still go by the old voters */
		if
		:: coming[i] == 0 && voters[i] != 7 && !(dead[0] && IN(0, voters[i])) && !(dead[1] && IN(1, voters[i])) && !(dead[2] && IN(2, voters[i])) ->
			assert((COUNT(voters[i]) - 1) * 2 > COUNT(voters[i]))
		:: else
		fi;
		if :: !IN(i, voters[i]) && !IN(i, coming[i]) -> leads[i] = 0 :: else fi; /* it is out */
		clean() }
	:: atomic { /* an election: some of those who may vote do */
		pick(); !dead[i] && !leads[i] && term[i] < TERMS && (IN(i, voters[i]) || IN(i, coming[i]));
		term[i] = term[i] + 1; got = 1 << i; j = 0;
		do
		:: j < NODES ->
			if
			:: j != i && !dead[j] && term[j] < term[i] &&
			   (LASTTERM(i) > LASTTERM(j) || (LASTTERM(i) == LASTTERM(j) && end[i] >= end[j])) ->
				if :: got = got | (1 << j); term[j] = term[i]; leads[j] = 0 :: skip fi
			:: else
			fi;
			j++
		:: else -> break
		od;
		if
		:: AGREED(got, i) ->
			assert(led[term[i]] == 0);
			led[term[i]] = i + 1; leads[i] = 1;
			has = 0; e = 0;
			do
			:: e < end[i] -> if :: K(i, e) == W -> has = 1 :: else fi; e++
			:: else -> break
			od;
			assert(has || !acked)
		:: else
		fi;
		clean() }
	:: atomic { /* a disk is lost: the id is not used again */
		!lost; if :: i = 0 :: i = 1 fi; lost = 1;
#ifdef REUSE_WIPED_ID
		term[i] = 0; voters[i] = 7;
#else
		dead[i] = 1; term[i] = 0; voters[i] = 0;
#endif
		coming[i] = 0; commit[i] = 0; end[i] = 0; leads[i] = 0;
		e = 0;
		do
		:: e < LEN -> T(i, e) = 0; K(i, e) = 0; e++
		:: else -> break
		od;
		clean() }
	od
}
