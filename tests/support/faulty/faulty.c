/* A PKCS#11 module that behaves badly on request. It is built and driven by tests/support/faulty_module.py.

   One token of SoftHSM is shown in one slot. What is wrong with it stands in the file `control` beside this library,
   in lines of key=value, and is read again whenever that file changes. `softhsm.so` beside this library is a copy of
   SoftHSM: another file, so its sessions and logins are not those of the SoftHSM that the process may have loaded.
   `state` beside it counts calls and PIN tries for all processes. Functions and return values: PKCS #11 v2.40.

   Every call goes through enter(), which counts it, waits, or fails, as told. Whatever then happens holds `gate`, so
   that nobody is inside SoftHSM while all sessions are closed because the token is taken out. */

#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <p11-kit/pkcs11.h>

#ifndef PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP /* glibc: a writer does not wait for ever */
#define PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP PTHREAD_RWLOCK_INITIALIZER
#endif

_Static_assert(sizeof(CK_ULONG) == 8, "handles keep an epoch above 32 bits");

/* The Python side reads the names from these tables, from FUNCTION(...) to ARMED(...). */
#define FUNCTIONS(FUNCTION)                                                                                           \
  FUNCTION(C_Initialize) FUNCTION(C_Finalize) FUNCTION(C_GetInfo) FUNCTION(C_GetFunctionList) FUNCTION(C_GetSlotList) \
  FUNCTION(C_GetSlotInfo) FUNCTION(C_GetTokenInfo) FUNCTION(C_GetMechanismList) FUNCTION(C_GetMechanismInfo)          \
  FUNCTION(C_InitToken) FUNCTION(C_InitPIN) FUNCTION(C_SetPIN) FUNCTION(C_OpenSession) FUNCTION(C_CloseSession)       \
  FUNCTION(C_CloseAllSessions) FUNCTION(C_GetSessionInfo) FUNCTION(C_GetOperationState)                               \
  FUNCTION(C_SetOperationState) FUNCTION(C_Login) FUNCTION(C_Logout) FUNCTION(C_CreateObject)                         \
  FUNCTION(C_CopyObject) FUNCTION(C_DestroyObject) FUNCTION(C_GetObjectSize) FUNCTION(C_GetAttributeValue)            \
  FUNCTION(C_SetAttributeValue) FUNCTION(C_FindObjectsInit) FUNCTION(C_FindObjects) FUNCTION(C_FindObjectsFinal)      \
  FUNCTION(C_EncryptInit) FUNCTION(C_Encrypt) FUNCTION(C_EncryptUpdate) FUNCTION(C_EncryptFinal)                      \
  FUNCTION(C_DecryptInit) FUNCTION(C_Decrypt) FUNCTION(C_DecryptUpdate) FUNCTION(C_DecryptFinal)                      \
  FUNCTION(C_DigestInit) FUNCTION(C_Digest) FUNCTION(C_DigestUpdate) FUNCTION(C_DigestKey) FUNCTION(C_DigestFinal)    \
  FUNCTION(C_SignInit) FUNCTION(C_Sign) FUNCTION(C_SignUpdate) FUNCTION(C_SignFinal) FUNCTION(C_SignRecoverInit)      \
  FUNCTION(C_SignRecover) FUNCTION(C_VerifyInit) FUNCTION(C_Verify) FUNCTION(C_VerifyUpdate) FUNCTION(C_VerifyFinal)  \
  FUNCTION(C_VerifyRecoverInit) FUNCTION(C_VerifyRecover) FUNCTION(C_DigestEncryptUpdate)                             \
  FUNCTION(C_DecryptDigestUpdate) FUNCTION(C_SignEncryptUpdate) FUNCTION(C_DecryptVerifyUpdate)                       \
  FUNCTION(C_GenerateKey) FUNCTION(C_GenerateKeyPair) FUNCTION(C_WrapKey) FUNCTION(C_UnwrapKey)                       \
  FUNCTION(C_DeriveKey) FUNCTION(C_SeedRandom) FUNCTION(C_GenerateRandom) FUNCTION(C_GetFunctionStatus)               \
  FUNCTION(C_CancelFunction) FUNCTION(C_WaitForSlotEvent)

/* Numbers; switches are 1 for on. */
#define NUMBERS(NUMBER)                                                                                         \
  NUMBER(present)                 /* the token is in its slot; 1 unless said otherwise */                       \
  NUMBER(slot)                    /* the number of its slot; 1 unless said otherwise */                         \
  NUMBER(removals)                /* how often it was taken out: a change ends all sessions, even if unseen */  \
  NUMBER(closings)                /* how often all sessions were closed behind the caller's back */             \
  NUMBER(logouts)                 /* how often it was logged out behind the caller's back */                    \
  NUMBER(removable)               /* CKF_REMOVABLE_DEVICE */                                                    \
  NUMBER(cant_lock)               /* C_Initialize refuses CKF_OS_LOCKING_OK without functions for mutexes */    \
  NUMBER(null_only)               /* C_Initialize refuses all but NULL */                                       \
  NUMBER(max_sessions)            /* how many a process may have open; 0 for any number */                      \
  NUMBER(no_login_required)       /* CKF_LOGIN_REQUIRED is not told, though it is */                            \
  NUMBER(pin_pad)                 /* CKF_PROTECTED_AUTHENTICATION_PATH; a PIN of NULL is pad_pin */             \
  NUMBER(always_auth)             /* CKA_ALWAYS_AUTHENTICATE of private keys */                                 \
  NUMBER(no_id)                   /* CKA_ID is empty */                                                         \
  NUMBER(hashed_ecdsa)            /* the token has CKM_ECDSA_SHA1 to _SHA512, which SoftHSM has not */          \
  NUMBER(raw_ec_point)            /* CKA_EC_POINT is not wrapped in an OCTET STRING */                          \
  NUMBER(hide_public)             /* public keys do not show */                                                 \
  NUMBER(hide_certs_before_login) /* certificates show after a login only */                                    \
  NUMBER(sign_needs_query)        /* C_Sign is CKR_BUFFER_TOO_SMALL unless it was asked for the length before */ \
  NUMBER(query_ends_sign)         /* asking C_Sign for the length ends the signature */

#define TEXTS(TEXT)                                                                                       \
  TEXT(serial)   /* of the token to show; empty for the first that is initialised */                      \
  TEXT(label)    /* of the token, in place of its own */                                                  \
  TEXT(pad_pin)  /* what is entered on the PIN pad */                                                     \
  TEXT(pad)      /* "cancel": who stands at the PIN pad presses that key */                               \
  TEXT(bad_slot) /* one slot more, where C_GetSlotInfo ("info") or C_GetTokenInfo ("token") fails */

/* Numbers with commas between them. */
#define LISTS(LIST)                                                         \
  LIST(hide)     /* mechanisms that the token does not have */              \
  LIST(only)     /* the only mechanisms that it has */                      \
  LIST(unlisted) /* mechanisms that it has but does not list */             \
  LIST(empty)    /* slots without a token */

/* For each function, as in delay.C_Sign=450. */
#define FUNCTION_NUMBERS(EACH)                                                           \
  EACH(delay)  /* milliseconds that it takes */                                          \
  EACH(hang)   /* it does not return, as long as that is set */                          \
  EACH(crash)  /* it ends the process with SIGSEGV */                                    \
  EACH(always) /* the return value of every call */

/* FIRST:SECOND@ANYTHING. What is counted in `state` begins anew when the text changes, which ANYTHING is for. */
#define ARMED(SHOT)                                                                          \
  SHOT(pin_tries) /* FIRST wrong PINs lock the PIN; SECOND: how many of them are left now */
#define ARMED_FUNCTIONS(SHOT)                                                                \
  SHOT(fail) /* as in fail.C_Sign=3:0x32: the FIRST-th call from now on returns SECOND */

enum function {
#define FUNCTION(name) N_##name,
  FUNCTIONS(FUNCTION)
#undef FUNCTION
  FUNCTION_COUNT
};

static const char *const function_names[] = {
#define FUNCTION(name) #name,
  FUNCTIONS(FUNCTION)
#undef FUNCTION
};

#define SLOT_WITHOUT_SENSE 0xbad
#define MOST_NUMBERS 64
#define LONGEST_TEXT 128
#define MOST_ATTRIBUTES 64
#define MOST_SESSIONS 4096
#define EPOCH_SHIFT 32

/* --- The control file --- */

struct list {
  size_t count;
  CK_ULONG numbers[MOST_NUMBERS];
};

struct shot {
  uint64_t text; /* hash; 0 for none */
  CK_ULONG first, second;
};

struct version { /* of the control file; all 0 while there is none */
  ino_t inode;
  off_t size;
  struct timespec changed;
};

struct control {
  struct version version;
  const struct control *before; /* kept: other threads may still look at it */
#define NUMBER(name) CK_ULONG name;
#define TEXT(name) char name[LONGEST_TEXT];
#define LIST(name) struct list name;
#define EACH(name) CK_ULONG name[FUNCTION_COUNT];
#define SHOT(name) struct shot name;
#define SHOTS(name) struct shot name[FUNCTION_COUNT];
  NUMBERS(NUMBER) TEXTS(TEXT) LISTS(LIST) FUNCTION_NUMBERS(EACH) ARMED(SHOT) ARMED_FUNCTIONS(SHOTS)
#undef NUMBER
#undef TEXT
#undef LIST
#undef EACH
#undef SHOT
#undef SHOTS
};

/* Shared by all processes that load this file; faulty_module.py reads it: all 64 bits wide, in this order. */
struct state {
  _Atomic uint64_t calls[FUNCTION_COUNT];
  _Atomic uint64_t max_inside[FUNCTION_COUNT + 1]; /* the last one: in the whole module */
  _Atomic uint64_t violations;
  _Atomic int64_t pin_left;
  _Atomic uint64_t pin_text;
  _Atomic int64_t fail_left[FUNCTION_COUNT];
  _Atomic uint64_t fail_text[FUNCTION_COUNT];
};

struct session {
  CK_SESSION_HANDLE handle; /* 0: free */
  CK_SESSION_HANDLE real;
  bool removed;       /* with the token: says so once */
  bool pin_due;       /* the key that the signature was begun with asks for the PIN */
  bool length_asked;  /* of the signature begun */
  bool finds_nothing; /* the search begun */
  CK_MECHANISM_TYPE digest; /* CKM_SHA...: of what is to be signed, which we make; 0: none */
};

static char control_path[4096], state_path[4096], softhsm_path[4096];
static CK_FUNCTION_LIST *real;
static struct state *state;
static _Atomic(const struct control *) control;

static pthread_mutex_t reading = PTHREAD_MUTEX_INITIALIZER;  /* of the control file */
static pthread_mutex_t counting = PTHREAD_MUTEX_INITIALIZER; /* with a lock on the state file, against processes */
static pthread_mutex_t table = PTHREAD_MUTEX_INITIALIZER;    /* of sessions */
static pthread_rwlock_t gate = PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP;

static struct session sessions[MOST_SESSIONS];
static uint64_t sessions_opened;
static _Atomic uint64_t epoch = 1; /* handles of objects from an earlier one are invalid */
static _Atomic CK_ULONG known_slot; /* SoftHSM's number for our token, and 1 more: 0 for unknown */
static atomic_bool may_lock = true;
static _Atomic uint64_t inside[FUNCTION_COUNT + 1];
static char last_pin[LONGEST_TEXT]; /* that SoftHSM took; under `counting` */
static size_t last_pin_size;

static void give_up(const char *why, const char *what) {
  fprintf(stderr, "faulty.c: %s: %s\n", why, what);
  abort();
}

static int lock_state(void) {
  pthread_mutex_lock(&counting);
  int file = open(state_path, O_RDWR | O_CREAT | O_CLOEXEC, 0600); /* flock() holds for one opening of a file */
  if (file >= 0) flock(file, LOCK_EX);
  return file; /* -1 when the directory is gone: then nobody else counts either */
}

static void unlock_state(int file) {
  if (file >= 0) {
    flock(file, LOCK_UN); /* closing is not enough if a child was forked in between: it has the file open too */
    close(file);
  }
  pthread_mutex_unlock(&counting);
}

/* For logins, and for what reads the token's file: SoftHSM writes to it at a wrong PIN, and another process that reads
   it at that moment finds no token. */
#define WITH_STATE_LOCKED(call) \
  ({                            \
    int locked = lock_state();  \
    CK_RV answer = (call);      \
    unlock_state(locked);       \
    answer;                     \
  })

static struct version version_of(const struct stat *found) {
  return (struct version){found->st_ino, found->st_size, found->st_mtim};
}

static bool same_version(const struct version *a, const struct version *b) {
  return a->inode == b->inode && a->size == b->size && a->changed.tv_sec == b->changed.tv_sec &&
         a->changed.tv_nsec == b->changed.tv_nsec;
}

static void read_list(struct list *list, const char *text) {
  char *end;
  for (list->count = 0; *text; text = *end ? end + 1 : end) {
    if (list->count == MOST_NUMBERS) give_up("a list is too long", text);
    list->numbers[list->count++] = strtoul(text, &end, 0);
  }
}

static void read_shot(struct shot *shot, const char *text) {
  char *end;
  shot->text = 0xcbf29ce484222325; /* FNV-1a */
  for (const char *at = text; *at; at++) shot->text = (shot->text ^ (unsigned char)*at) * 0x100000001b3;
  shot->first = strtoul(text, &end, 0);
  shot->second = *end == ':' ? strtoul(end + 1, NULL, 0) : 0;
}

static bool read_setting(struct control *into, const char *key, const char *value) {
#define NUMBER(name) \
  if (!strcmp(key, #name)) return into->name = strtoul(value, NULL, 0), true;
#define TEXT(name) \
  if (!strcmp(key, #name)) return strncpy(into->name, value, LONGEST_TEXT - 1), true;
#define LIST(name) \
  if (!strcmp(key, #name)) return read_list(&into->name, value), true;
#define SHOT(name) \
  if (!strcmp(key, #name)) return read_shot(&into->name, value), true;
  NUMBERS(NUMBER) TEXTS(TEXT) LISTS(LIST) ARMED(SHOT)
#undef NUMBER
#undef TEXT
#undef LIST
#undef SHOT
  return false;
}

static bool read_function_setting(struct control *into, const char *key, const char *function, const char *value) {
  size_t number = 0;
  while (number < FUNCTION_COUNT && strcmp(function_names[number], function)) number++;
  if (number == FUNCTION_COUNT) return false;
#define EACH(name) \
  if (!strcmp(key, #name)) return into->name[number] = strtoul(value, NULL, 0), true;
#define SHOTS(name) \
  if (!strcmp(key, #name)) return read_shot(&into->name[number], value), true;
  FUNCTION_NUMBERS(EACH) ARMED_FUNCTIONS(SHOTS)
#undef EACH
#undef SHOTS
  return false;
}

static struct control *read_control(void) {
  struct control *made = calloc(1, sizeof *made);
  if (!made) give_up("out of memory", control_path);
  made->present = made->slot = 1;
  FILE *file = fopen(control_path, "re");
  if (!file) return made;
  struct stat found;
  char line[4096];
  if (!fstat(fileno(file), &found)) made->version = version_of(&found);
  while (fgets(line, sizeof line, file)) {
    line[strcspn(line, "\n")] = 0;
    char *value = strchr(line, '=');
    if (!value) give_up("no key=value", line);
    *value++ = 0;
    char *function = strchr(line, '.');
    if (function) *function++ = 0;
    if (!(function ? read_function_setting(made, line, function, value) : read_setting(made, line, value)))
      give_up("unknown setting", line);
  }
  fclose(file);
  return made;
}

/* Begin to count anew what the control file says in other words than before. With the state locked. */
static void arm(const struct control *now) {
  if (state->pin_text != now->pin_tries.text) {
    state->pin_text = now->pin_tries.text;
    state->pin_left = (int64_t)(now->pin_tries.second ? now->pin_tries.second : now->pin_tries.first);
  }
  for (size_t number = 0; number < FUNCTION_COUNT; number++)
    if (state->fail_text[number] != now->fail[number].text) {
      state->fail_text[number] = now->fail[number].text;
      state->fail_left[number] = (int64_t)now->fail[number].first;
    }
}

/* The CKR_ by which calls of a session that is gone are refused depends on whether the token was removed. */
static void end_sessions(bool removed) {
  for (size_t number = 0; number < MOST_SESSIONS; number++) {
    struct session *session = &sessions[number];
    if (!session->handle || session->removed) continue;
    real->C_CloseSession(session->real); /* with the last one SoftHSM logs out */
    if (removed)
      session->removed = true;
    else
      session->handle = 0;
  }
  epoch++;
}

static void log_out(void) {
  for (size_t number = 0; number < MOST_SESSIONS; number++)
    if (sessions[number].handle && !sessions[number].removed) {
      real->C_Logout(sessions[number].real);
      return;
    }
}

/* Let a new control file count, and do at once what happens to the token by it. */
static void adopt(const struct control *before, struct control *now) {
  now->before = before;
  if (!before) {
    control = now;
    return;
  }
  pthread_rwlock_wrlock(&gate);
  if (now->present != before->present || now->slot != before->slot || now->removals != before->removals)
    end_sessions(true);
  if (now->closings != before->closings) end_sessions(false);
  if (now->logouts != before->logouts) log_out();
  if (strcmp(now->serial, before->serial)) known_slot = 0;
  control = now;
  pthread_rwlock_unlock(&gate);
}

static const struct control *current_control(void) {
  struct stat found;
  struct version version = {0};
  if (!stat(control_path, &found)) version = version_of(&found);
  const struct control *now = control;
  if (now && same_version(&now->version, &version)) return now;
  pthread_mutex_lock(&reading);
  now = control;
  if (!now || !same_version(&now->version, &version)) {
    int file = lock_state(); /* around the reading, so that no process arms what another has disarmed already */
    struct control *made = read_control();
    arm(made);
    unlock_state(file);
    adopt(now, made);
  }
  pthread_mutex_unlock(&reading);
  return control;
}

static bool lists(const struct list *list, CK_ULONG number) {
  for (size_t at = 0; at < list->count; at++)
    if (list->numbers[at] == number) return true;
  return false;
}

/* --- What happens at each call --- */

static void wait_ms(CK_ULONG milliseconds) {
  struct timespec left = {(time_t)(milliseconds / 1000), (long)(milliseconds % 1000) * 1000000};
  while (nanosleep(&left, &left)) continue;
}

static void raise_to(_Atomic uint64_t *most, uint64_t value) {
  uint64_t seen = *most;
  while (seen < value && !atomic_compare_exchange_weak(most, &seen, value)) continue;
}

/* CKR_OK: go on. */
static CK_RV enter(enum function function) {
  raise_to(&state->max_inside[function], ++inside[function]);
  uint64_t all = ++inside[FUNCTION_COUNT];
  raise_to(&state->max_inside[FUNCTION_COUNT], all);
  bool alone = !may_lock || inside[N_C_Initialize] || inside[N_C_Finalize];
  if (all > 1 && alone) state->violations++;
  state->calls[function]++; /* last, for who waits for a call until it is inside */
  const struct control *now = current_control();
  while (now->hang[function]) {
    wait_ms(10);
    now = current_control();
  }
  if (now->crash[function]) raise(SIGSEGV);
  if (now->delay[function]) {
    wait_ms(now->delay[function]);
    now = current_control(); /* the token may have left in the meantime */
  }
  if (now->fail[function].text && --state->fail_left[function] == 0) return now->fail[function].second;
  return now->always[function];
}

static void leave(enum function function) {
  inside[function]--;
  inside[FUNCTION_COUNT]--;
}

/* What callers get: NAME of CK_FUNCTION_LIST, around do_NAME. */
#define ENTRY_WITH(lock, name, parameters, arguments)           \
  static CK_RV do_##name parameters;                            \
  static CK_RV entry_##name parameters {                        \
    CK_RV value = enter(N_##name);                              \
    if (value == CKR_OK) {                                      \
      lock(&gate);                                              \
      value = do_##name arguments;                              \
      pthread_rwlock_unlock(&gate);                             \
    }                                                           \
    leave(N_##name);                                            \
    return value;                                               \
  }                                                             \
  static CK_RV do_##name parameters

#define ENTRY(name, parameters, arguments) ENTRY_WITH(pthread_rwlock_rdlock, name, parameters, arguments)
#define ENTRY_ALONE(name, parameters, arguments) ENTRY_WITH(pthread_rwlock_wrlock, name, parameters, arguments)

/* --- Handles --- */

static CK_RV find_session(CK_SESSION_HANDLE handle, struct session **found) {
  struct session *session = &sessions[handle % MOST_SESSIONS];
  CK_RV value = CKR_OK;
  pthread_mutex_lock(&table);
  if (!handle || session->handle != handle) {
    CK_INFO info;
    value = real->C_GetInfo(&info); /* not initialised? */
    if (value == CKR_OK) value = CKR_SESSION_HANDLE_INVALID;
  } else if (session->removed) {
    session->handle = 0;
    session->removed = false;
    value = CKR_DEVICE_REMOVED;
  }
  pthread_mutex_unlock(&table);
  *found = session;
  return value;
}

/* With the table locked. */
static struct session *free_session(CK_ULONG most) {
  CK_ULONG open = 0;
  struct session *free = NULL, *removed = NULL;
  for (size_t number = 0; number < MOST_SESSIONS; number++) {
    struct session *session = &sessions[number];
    if (session->removed)
      removed = session;
    else if (session->handle)
      open++;
    else if (!free)
      free = session;
  }
  return most && open >= most ? NULL : free ? free : removed;
}

static void forget_sessions(void) {
  pthread_mutex_lock(&table);
  memset(sessions, 0, sizeof sessions);
  pthread_mutex_unlock(&table);
  epoch++;
}

static void forget_all(void) {
  known_slot = 0;
  forget_sessions();
}

static CK_OBJECT_HANDLE object_out(CK_OBJECT_HANDLE handle) { return epoch << EPOCH_SHIFT | handle; }

/* 0, which is never a handle, stays 0. One of an earlier epoch becomes one that SoftHSM does not know. */
static CK_OBJECT_HANDLE object_in(CK_OBJECT_HANDLE handle) {
  if (!handle || handle >> EPOCH_SHIFT == epoch) return handle & ((1ul << EPOCH_SHIFT) - 1);
  return CK_UNAVAILABLE_INFORMATION;
}

#define SESSION(handle)                              \
  struct session *session;                           \
  {                                                  \
    CK_RV wrong = find_session(handle, &session);    \
    if (wrong != CKR_OK) return wrong;               \
  }
#define CHECK(call)                                  \
  do {                                               \
    CK_RV wrong = (call);                            \
    if (wrong != CKR_OK) return wrong;               \
  } while (0)

/* --- The module --- */

ENTRY_ALONE(C_Initialize, (void *given), (given)) {
  const struct control *now = control;
  CK_C_INITIALIZE_ARGS *wanted = given, forwarded = {.flags = CKF_OS_LOCKING_OK};
  if (wanted && now->null_only) return CKR_ARGUMENTS_BAD;
  bool functions = wanted && wanted->CreateMutex;
  if (wanted && wanted->flags & CKF_OS_LOCKING_OK && !functions && now->cant_lock) return CKR_CANT_LOCK;
  if (wanted) forwarded.pReserved = wanted->pReserved;
  /* Always with locks: threads where none may be are counted, and survive. */
  CHECK(WITH_STATE_LOCKED(real->C_Initialize(&forwarded)));
  may_lock = functions || (wanted && wanted->flags & CKF_OS_LOCKING_OK);
  forget_all();
  return CKR_OK;
}

ENTRY_ALONE(C_Finalize, (void *reserved), (reserved)) {
  CHECK(real->C_Finalize(reserved));
  may_lock = true;
  forget_all();
  return CKR_OK;
}

ENTRY(C_GetInfo, (CK_INFO * info), (info)) { return real->C_GetInfo(info); }

/* --- Slots and tokens --- */

static bool is_wanted(const CK_TOKEN_INFO *info, const char *serial) {
  size_t size = strlen(serial);
  if (!size) return info->flags & CKF_TOKEN_INITIALIZED;
  return size <= sizeof info->serialNumber && !memcmp(info->serialNumber, serial, size);
}

static CK_RV search_slot(CK_SLOT_ID *found) {
  CK_SLOT_ID slots[MOST_NUMBERS];
  CK_ULONG count = MOST_NUMBERS;
  CHECK(real->C_GetSlotList(CK_TRUE, NULL, &(CK_ULONG){0})); /* SoftHSM looks for new tokens now only */
  CHECK(real->C_GetSlotList(CK_TRUE, slots, &count));
  for (CK_ULONG at = 0; at < count; at++) {
    CK_TOKEN_INFO info;
    if (real->C_GetTokenInfo(slots[at], &info) == CKR_OK && is_wanted(&info, control->serial)) {
      known_slot = slots[at] + 1;
      return *found = slots[at], CKR_OK;
    }
  }
  return CKR_TOKEN_NOT_PRESENT;
}

static CK_RV softhsm_slot(CK_SLOT_ID *found) {
  if (known_slot) return *found = known_slot - 1, CKR_OK;
  return WITH_STATE_LOCKED(search_slot(found));
}

/* SoftHSM's number of the slot that a caller means; an error unless our token is in it. */
static CK_RV slot_in(CK_SLOT_ID slot, CK_SLOT_ID *found) {
  const struct control *now = control;
  CHECK(softhsm_slot(found));
  if (slot == SLOT_WITHOUT_SENSE && now->bad_slot[0]) return CKR_DEVICE_ERROR;
  if (slot == now->slot) return now->present ? CKR_OK : CKR_TOKEN_NOT_PRESENT;
  return lists(&now->empty, slot) ? CKR_TOKEN_NOT_PRESENT : CKR_SLOT_ID_INVALID;
}

/* Answer a list in the two steps of section 5.2. */
static CK_RV give_list(const CK_ULONG *from, CK_ULONG size, CK_ULONG *into, CK_ULONG *count) {
  if (!count) return CKR_ARGUMENTS_BAD;
  CK_ULONG room = *count;
  *count = size;
  if (!into) return CKR_OK;
  if (room < size) return CKR_BUFFER_TOO_SMALL;
  memcpy(into, from, size * sizeof *from);
  return CKR_OK;
}

ENTRY(C_GetSlotList, (CK_BBOOL present, CK_SLOT_ID *list, CK_ULONG *count), (present, list, count)) {
  const struct control *now = control;
  CK_SLOT_ID slots[MOST_NUMBERS + 2], ignored;
  CK_ULONG size = 0;
  CK_RV value = softhsm_slot(&ignored);
  if (value != CKR_OK && value != CKR_TOKEN_NOT_PRESENT) return value;
  if (now->bad_slot[0]) slots[size++] = SLOT_WITHOUT_SENSE; /* first, where it hides most */
  if ((now->present && value == CKR_OK) || !present) slots[size++] = now->slot;
  for (size_t at = 0; at < now->empty.count && !present; at++)
    if (now->empty.numbers[at] != now->slot) slots[size++] = now->empty.numbers[at];
  return give_list(slots, size, list, count);
}

ENTRY(C_GetSlotInfo, (CK_SLOT_ID slot, CK_SLOT_INFO *info), (slot, info)) {
  const struct control *now = control;
  CK_SLOT_ID inner;
  CK_RV value = slot_in(slot, &inner);
  if (value == CKR_DEVICE_ERROR && strcmp(now->bad_slot, "info")) value = CKR_OK;
  if (value != CKR_OK && value != CKR_TOKEN_NOT_PRESENT) return value;
  CHECK(real->C_GetSlotInfo(inner, info));
  if (value == CKR_TOKEN_NOT_PRESENT) info->flags &= ~CKF_TOKEN_PRESENT;
  if (now->removable) info->flags |= CKF_REMOVABLE_DEVICE;
  return CKR_OK;
}

static CK_FLAGS pin_flags(const struct control *now) {
  int64_t left = state->pin_left, tries = (int64_t)now->pin_tries.first;
  if (left <= 0) return CKF_USER_PIN_LOCKED;
  if (left == 1) return CKF_USER_PIN_FINAL_TRY | (tries > 1 ? CKF_USER_PIN_COUNT_LOW : 0);
  return left < tries ? CKF_USER_PIN_COUNT_LOW : 0;
}

ENTRY(C_GetTokenInfo, (CK_SLOT_ID slot, CK_TOKEN_INFO *info), (slot, info)) {
  const struct control *now = control;
  CK_SLOT_ID inner;
  CHECK(slot_in(slot, &inner));
  CHECK(WITH_STATE_LOCKED(real->C_GetTokenInfo(inner, info)));
  if (now->pin_tries.text) {
    info->flags &= ~(CKF_USER_PIN_COUNT_LOW | CKF_USER_PIN_FINAL_TRY | CKF_USER_PIN_LOCKED);
    info->flags |= pin_flags(now);
  }
  if (now->label[0]) {
    memset(info->label, ' ', sizeof info->label);
    memcpy(info->label, now->label, strnlen(now->label, sizeof info->label));
  }
  if (now->pin_pad) info->flags |= CKF_PROTECTED_AUTHENTICATION_PATH;
  if (now->no_login_required) info->flags &= ~CKF_LOGIN_REQUIRED;
  return CKR_OK;
}

/* CKM_ECDSA_SHA...: the digest that belongs to it, and 0 for other mechanisms. */
static CK_MECHANISM_TYPE digest_of(CK_MECHANISM_TYPE number) {
  static const CK_MECHANISM_TYPE digests[] = {CKM_SHA_1, CKM_SHA224, CKM_SHA256, CKM_SHA384, CKM_SHA512};
  bool known = control->hashed_ecdsa && number >= CKM_ECDSA_SHA1 && number <= CKM_ECDSA_SHA512;
  return known ? digests[number - CKM_ECDSA_SHA1] : 0;
}

static bool has_mechanism(CK_MECHANISM_TYPE number) {
  const struct control *now = control;
  return !lists(&now->hide, number) && (!now->only.count || lists(&now->only, number));
}

ENTRY(C_GetMechanismList, (CK_SLOT_ID slot, CK_MECHANISM_TYPE *list, CK_ULONG *count), (slot, list, count)) {
  CK_SLOT_ID inner;
  CK_MECHANISM_TYPE all[1024];
  CK_ULONG found = sizeof all / sizeof *all, size = 0;
  CHECK(slot_in(slot, &inner));
  CHECK(real->C_GetMechanismList(inner, all, &found));
  for (CK_ULONG at = 0; at < found; at++)
    if (has_mechanism(all[at]) && !lists(&control->unlisted, all[at])) all[size++] = all[at];
  for (CK_MECHANISM_TYPE number = CKM_ECDSA_SHA1; number <= CKM_ECDSA_SHA512; number++)
    if (digest_of(number) && has_mechanism(number)) all[size++] = number;
  return give_list(all, size, list, count);
}

ENTRY(C_GetMechanismInfo, (CK_SLOT_ID slot, CK_MECHANISM_TYPE type, CK_MECHANISM_INFO *info), (slot, type, info)) {
  CK_SLOT_ID inner;
  CHECK(slot_in(slot, &inner));
  if (!has_mechanism(type)) return CKR_MECHANISM_INVALID;
  return real->C_GetMechanismInfo(inner, digest_of(type) ? CKM_ECDSA : type, info);
}

ENTRY(C_InitToken, (CK_SLOT_ID slot, CK_BYTE *pin, CK_ULONG size, CK_BYTE *label), (slot, pin, size, label)) {
  CK_SLOT_ID inner;
  CHECK(slot_in(slot, &inner));
  return real->C_InitToken(inner, pin, size, label);
}

ENTRY(C_WaitForSlotEvent, (CK_FLAGS flags, CK_SLOT_ID *slot, void *reserved), (flags, slot, reserved)) {
  return real->C_WaitForSlotEvent(flags, slot, reserved); /* SoftHSM has no events */
}

/* --- Sessions --- */

ENTRY(C_OpenSession, (CK_SLOT_ID slot, CK_FLAGS flags, void *own, CK_NOTIFY notify, CK_SESSION_HANDLE *handle),
      (slot, flags, own, notify, handle)) {
  CK_SLOT_ID inner;
  CHECK(slot_in(slot, &inner));
  pthread_mutex_lock(&table);
  struct session *session = free_session(control->max_sessions);
  CK_SESSION_HANDLE opened = 0;
  CK_RV value = session ? real->C_OpenSession(inner, flags, own, notify, &opened) : CKR_SESSION_COUNT;
  if (value == CKR_OK) {
    *session = (struct session){.real = opened};
    *handle = session->handle = ++sessions_opened * MOST_SESSIONS + (CK_ULONG)(session - sessions);
  }
  pthread_mutex_unlock(&table);
  return value;
}

ENTRY(C_CloseSession, (CK_SESSION_HANDLE handle), (handle)) {
  SESSION(handle)
  CHECK(real->C_CloseSession(session->real));
  pthread_mutex_lock(&table);
  session->handle = 0;
  pthread_mutex_unlock(&table);
  return CKR_OK;
}

ENTRY_ALONE(C_CloseAllSessions, (CK_SLOT_ID slot), (slot)) {
  CK_SLOT_ID inner;
  CHECK(slot_in(slot, &inner));
  CHECK(real->C_CloseAllSessions(inner));
  forget_sessions();
  return CKR_OK;
}

ENTRY(C_GetSessionInfo, (CK_SESSION_HANDLE handle, CK_SESSION_INFO *info), (handle, info)) {
  SESSION(handle)
  CHECK(real->C_GetSessionInfo(session->real, info));
  info->slotID = control->slot;
  return CKR_OK;
}

/* --- Login --- */

/* SoftHSM does not know that our keys ask each time: it can only be the PIN that it took before. */
static CK_RV login_for_operation(struct session *session, const CK_BYTE *pin, CK_ULONG size) {
  if (!session->pin_due) return CKR_OPERATION_NOT_INITIALIZED;
  if (!pin || size != last_pin_size || memcmp(pin, last_pin, size)) return CKR_PIN_INCORRECT;
  session->pin_due = false;
  return CKR_OK;
}

static CK_RV login(struct session *session, CK_USER_TYPE user, CK_BYTE *pin, CK_ULONG size) {
  if (user == CKU_CONTEXT_SPECIFIC && control->always_auth) return login_for_operation(session, pin, size);
  CK_RV value = real->C_Login(session->real, user, pin, size);
  if (value == CKR_OK && user == CKU_USER && size <= sizeof last_pin) {
    memcpy(last_pin, pin, size);
    last_pin_size = size;
  }
  return value;
}

/* With the state locked. */
static CK_RV login_with_tries(struct session *session, CK_USER_TYPE user, CK_BYTE *pin, CK_ULONG size) {
  const struct shot *tries = &control->pin_tries;
  if (tries->text && state->pin_left <= 0) return CKR_PIN_LOCKED;
  CK_RV value = login(session, user, pin, size);
  if (value == CKR_PIN_INCORRECT) state->pin_left--;
  if (value == CKR_OK) state->pin_left = (int64_t)tries->first;
  return value;
}

ENTRY(C_Login, (CK_SESSION_HANDLE handle, CK_USER_TYPE user, CK_BYTE *pin, CK_ULONG size), (handle, user, pin, size)) {
  const struct control *now = control;
  SESSION(handle)
  if (user == CKU_SO) return real->C_Login(session->real, user, pin, size);
  if (!pin && now->pin_pad) {
    if (!strcmp(now->pad, "cancel")) return CKR_FUNCTION_CANCELED;
    pin = (CK_BYTE *)now->pad_pin;
    size = strlen(now->pad_pin);
  }
  return WITH_STATE_LOCKED(login_with_tries(session, user, pin, size));
}

/* --- Objects --- */

static CK_ULONG class_of(const struct session *session, CK_OBJECT_HANDLE object) {
  CK_ULONG class = CK_UNAVAILABLE_INFORMATION;
  CK_ATTRIBUTE wanted = {CKA_CLASS, &class, sizeof class};
  return real->C_GetAttributeValue(session->real, object, &wanted, 1) == CKR_OK ? class : CK_UNAVAILABLE_INFORMATION;
}

static bool is_logged_in(const struct session *session) {
  CK_SESSION_INFO info;
  return real->C_GetSessionInfo(session->real, &info) == CKR_OK &&
         (info.state == CKS_RO_USER_FUNCTIONS || info.state == CKS_RW_USER_FUNCTIONS);
}

static bool shows(const struct session *session, CK_OBJECT_HANDLE object) {
  const struct control *now = control;
  if (session->finds_nothing) return false;
  if (!now->hide_public && !now->hide_certs_before_login) return true;
  CK_ULONG class = class_of(session, object);
  if (class == CKO_PUBLIC_KEY) return !now->hide_public;
  return class != CKO_CERTIFICATE || !now->hide_certs_before_login || is_logged_in(session);
}

ENTRY(C_FindObjectsInit, (CK_SESSION_HANDLE handle, CK_ATTRIBUTE *template, CK_ULONG count),
      (handle, template, count)) {
  SESSION(handle)
  CK_ATTRIBUTE forwarded[MOST_ATTRIBUTES];
  CK_ULONG kept = 0;
  if (count > MOST_ATTRIBUTES) return CKR_ARGUMENTS_BAD;
  session->finds_nothing = false;
  for (CK_ULONG at = 0; at < count; at++) {
    if (template[at].type != CKA_ID || !control->no_id)
      forwarded[kept++] = template[at];
    else if (template[at].ulValueLen)
      session->finds_nothing = true;
  }
  return real->C_FindObjectsInit(session->real, forwarded, kept);
}

ENTRY(C_FindObjects, (CK_SESSION_HANDLE handle, CK_OBJECT_HANDLE *objects, CK_ULONG most, CK_ULONG *count),
      (handle, objects, most, count)) {
  SESSION(handle)
  CK_ULONG found;
  *count = 0;
  do { /* 0 objects would say that there are no more */
    CHECK(real->C_FindObjects(session->real, objects, most, &found));
    for (CK_ULONG at = 0; at < found; at++)
      if (shows(session, objects[at])) objects[(*count)++] = object_out(objects[at]);
  } while (found && !*count);
  return CKR_OK;
}

/* An attribute of which we tell something else than SoftHSM. */
struct substitute {
  CK_BYTE value[256];
  CK_ULONG size;
};

/* The bare point in the DER OCTET STRING that SoftHSM stores; one length byte, or 0x81 and one. */
static bool bare_point(const struct session *session, CK_OBJECT_HANDLE object, struct substitute *made) {
  CK_BYTE stored[sizeof made->value];
  CK_ATTRIBUTE wanted = {CKA_EC_POINT, stored, sizeof stored};
  if (real->C_GetAttributeValue(session->real, object, &wanted, 1) != CKR_OK || wanted.ulValueLen < 3) return false;
  CK_ULONG header = stored[1] == 0x81 ? 3 : 2;
  made->size = wanted.ulValueLen - header;
  memcpy(made->value, stored + header, made->size);
  return true;
}

static bool substitutes(const struct session *session, CK_OBJECT_HANDLE object, CK_ATTRIBUTE_TYPE type,
                        struct substitute *made) {
  const struct control *now = control;
  *made = (struct substitute){.size = 0};
  if (type == CKA_ID && now->no_id) return class_of(session, object) != CK_UNAVAILABLE_INFORMATION;
  if (type == CKA_EC_POINT && now->raw_ec_point) return bare_point(session, object, made);
  if (type != CKA_ALWAYS_AUTHENTICATE || !now->always_auth) return false;
  made->value[0] = CK_TRUE;
  made->size = 1;
  return class_of(session, object) == CKO_PRIVATE_KEY;
}

static CK_RV give_attribute(CK_ATTRIBUTE *into, const struct substitute *from) {
  CK_ULONG room = into->ulValueLen;
  into->ulValueLen = from->size;
  if (!into->pValue) return CKR_OK;
  if (room < from->size) {
    into->ulValueLen = CK_UNAVAILABLE_INFORMATION;
    return CKR_BUFFER_TOO_SMALL;
  }
  memcpy(into->pValue, from->value, from->size);
  return CKR_OK;
}

ENTRY(C_GetAttributeValue,
      (CK_SESSION_HANDLE handle, CK_OBJECT_HANDLE object, CK_ATTRIBUTE *template, CK_ULONG count),
      (handle, object, template, count)) {
  SESSION(handle)
  CK_ATTRIBUTE forwarded[MOST_ATTRIBUTES];
  CK_ULONG places[MOST_ATTRIBUTES], kept = 0;
  CK_RV value = CKR_OK;
  if (count > MOST_ATTRIBUTES) return CKR_ARGUMENTS_BAD;
  object = object_in(object);
  for (CK_ULONG at = 0; at < count; at++) {
    struct substitute made;
    if (substitutes(session, object, template[at].type, &made)) {
      CK_RV wrong = give_attribute(&template[at], &made);
      if (wrong != CKR_OK) value = wrong;
    } else {
      places[kept] = at;
      forwarded[kept++] = template[at];
    }
  }
  if (kept) {
    CK_RV wrong = real->C_GetAttributeValue(session->real, object, forwarded, kept);
    if (wrong != CKR_OK) value = wrong;
  }
  for (CK_ULONG at = 0; at < kept; at++) template[places[at]].ulValueLen = forwarded[at].ulValueLen;
  return value;
}

ENTRY(C_CreateObject, (CK_SESSION_HANDLE handle, CK_ATTRIBUTE *template, CK_ULONG count, CK_OBJECT_HANDLE *object),
      (handle, template, count, object)) {
  SESSION(handle)
  CHECK(real->C_CreateObject(session->real, template, count, object));
  *object = object_out(*object);
  return CKR_OK;
}

ENTRY(C_CopyObject,
      (CK_SESSION_HANDLE handle, CK_OBJECT_HANDLE from, CK_ATTRIBUTE *template, CK_ULONG count,
       CK_OBJECT_HANDLE *object),
      (handle, from, template, count, object)) {
  SESSION(handle)
  CHECK(real->C_CopyObject(session->real, object_in(from), template, count, object));
  *object = object_out(*object);
  return CKR_OK;
}

ENTRY(C_GetObjectSize, (CK_SESSION_HANDLE handle, CK_OBJECT_HANDLE object, CK_ULONG *size), (handle, object, size)) {
  SESSION(handle)
  return real->C_GetObjectSize(session->real, object_in(object), size);
}

ENTRY(C_SetAttributeValue,
      (CK_SESSION_HANDLE handle, CK_OBJECT_HANDLE object, CK_ATTRIBUTE *template, CK_ULONG count),
      (handle, object, template, count)) {
  SESSION(handle)
  return real->C_SetAttributeValue(session->real, object_in(object), template, count);
}

/* --- Signatures --- */

/* SoftHSM ends an operation when it is through with it, and only then. */
static void end_signature(const struct session *session, CK_BYTE *data, CK_ULONG size) {
  CK_BYTE nobodys[4096];
  CK_ULONG length = sizeof nobodys;
  real->C_Sign(session->real, data, size, nobodys, &length);
}

ENTRY(C_SignInit, (CK_SESSION_HANDLE handle, CK_MECHANISM *mechanism, CK_OBJECT_HANDLE key), (handle, mechanism, key)) {
  SESSION(handle)
  if (mechanism && !has_mechanism(mechanism->mechanism)) return CKR_MECHANISM_INVALID;
  CK_MECHANISM_TYPE digest = mechanism ? digest_of(mechanism->mechanism) : 0;
  CHECK(real->C_SignInit(session->real, digest ? &(CK_MECHANISM){.mechanism = CKM_ECDSA} : mechanism, object_in(key)));
  session->digest = digest;
  session->pin_due = control->always_auth;
  session->length_asked = false;
  return CKR_OK;
}

/* In a session of its own, for there is one operation in a session. */
static CK_RV make_digest(CK_MECHANISM_TYPE digest, CK_BYTE *data, CK_ULONG size, CK_BYTE *into, CK_ULONG *length) {
  CK_SESSION_HANDLE opened;
  CK_SLOT_ID slot;
  CHECK(softhsm_slot(&slot));
  CHECK(real->C_OpenSession(slot, CKF_SERIAL_SESSION, NULL, NULL, &opened));
  CK_RV value = real->C_DigestInit(opened, &(CK_MECHANISM){.mechanism = digest});
  if (value == CKR_OK) value = real->C_Digest(opened, data, size, into, length);
  real->C_CloseSession(opened);
  return value;
}

ENTRY(C_Sign, (CK_SESSION_HANDLE handle, CK_BYTE *data, CK_ULONG size, CK_BYTE *signature, CK_ULONG *length),
      (handle, data, size, signature, length)) {
  const struct control *now = control;
  SESSION(handle)
  if (session->pin_due) {
    end_signature(session, data, size);
    session->pin_due = false;
    return CKR_USER_NOT_LOGGED_IN;
  }
  CK_BYTE digest[64];
  if (session->digest) {
    CK_ULONG made = sizeof digest;
    CHECK(make_digest(session->digest, data, size, digest, &made));
    data = digest;
    size = made;
  }
  if (signature && now->sign_needs_query && !session->length_asked) {
    CHECK(real->C_Sign(session->real, data, size, NULL, length));
    return CKR_BUFFER_TOO_SMALL;
  }
  CHECK(real->C_Sign(session->real, data, size, signature, length));
  session->length_asked = !signature;
  if (!signature && now->query_ends_sign) end_signature(session, data, size);
  return CKR_OK;
}

ENTRY(C_SignUpdate, (CK_SESSION_HANDLE handle, CK_BYTE *part, CK_ULONG size), (handle, part, size)) {
  SESSION(handle)
  return session->pin_due ? CKR_USER_NOT_LOGGED_IN : real->C_SignUpdate(session->real, part, size);
}

/* --- What is passed on, with its handles translated --- */

#define PASS(name, parameters, arguments, forwarded) \
  ENTRY(name, parameters, arguments) {               \
    SESSION(handle)                                  \
    return real->name forwarded;                     \
  }

#define PASS_NOTHING(name) PASS(name, (CK_SESSION_HANDLE handle), (handle), (session->real))
#define PASS_INPUT(name) \
  PASS(name, (CK_SESSION_HANDLE handle, CK_BYTE * in, CK_ULONG size), (handle, in, size), (session->real, in, size))
#define PASS_OUTPUT(name)                                                                              \
  PASS(name, (CK_SESSION_HANDLE handle, CK_BYTE * out, CK_ULONG * length), (handle, out, length),      \
       (session->real, out, length))
#define PASS_BOTH(name)                                                                                           \
  PASS(name, (CK_SESSION_HANDLE handle, CK_BYTE * in, CK_ULONG size, CK_BYTE * out, CK_ULONG * length),           \
       (handle, in, size, out, length), (session->real, in, size, out, length))
#define PASS_OBJECT(name)                                                                  \
  PASS(name, (CK_SESSION_HANDLE handle, CK_OBJECT_HANDLE object), (handle, object),        \
       (session->real, object_in(object)))
#define PASS_INIT(name)                                                                                             \
  PASS(name, (CK_SESSION_HANDLE handle, CK_MECHANISM * mechanism, CK_OBJECT_HANDLE key), (handle, mechanism, key),  \
       (session->real, mechanism, object_in(key)))

PASS_NOTHING(C_Logout)
PASS_NOTHING(C_FindObjectsFinal)
PASS_NOTHING(C_GetFunctionStatus)
PASS_NOTHING(C_CancelFunction)
PASS_INPUT(C_InitPIN)
PASS_INPUT(C_DigestUpdate)
PASS_INPUT(C_VerifyUpdate)
PASS_INPUT(C_VerifyFinal)
PASS_INPUT(C_SeedRandom)
PASS_INPUT(C_GenerateRandom)
PASS_OUTPUT(C_GetOperationState)
PASS_OUTPUT(C_EncryptFinal)
PASS_OUTPUT(C_DecryptFinal)
PASS_OUTPUT(C_DigestFinal)
PASS_OUTPUT(C_SignFinal)
PASS_BOTH(C_Encrypt)
PASS_BOTH(C_EncryptUpdate)
PASS_BOTH(C_Decrypt)
PASS_BOTH(C_DecryptUpdate)
PASS_BOTH(C_Digest)
PASS_BOTH(C_SignRecover)
PASS_BOTH(C_VerifyRecover)
PASS_BOTH(C_DigestEncryptUpdate)
PASS_BOTH(C_DecryptDigestUpdate)
PASS_BOTH(C_SignEncryptUpdate)
PASS_BOTH(C_DecryptVerifyUpdate)
PASS_OBJECT(C_DestroyObject)
PASS_OBJECT(C_DigestKey)
PASS_INIT(C_EncryptInit)
PASS_INIT(C_DecryptInit)
PASS_INIT(C_SignRecoverInit)
PASS_INIT(C_VerifyInit)
PASS_INIT(C_VerifyRecoverInit)
PASS(C_DigestInit, (CK_SESSION_HANDLE handle, CK_MECHANISM *mechanism), (handle, mechanism), (session->real, mechanism))
PASS(C_Verify, (CK_SESSION_HANDLE handle, CK_BYTE *data, CK_ULONG size, CK_BYTE *signature, CK_ULONG length),
     (handle, data, size, signature, length), (session->real, data, size, signature, length))
PASS(C_SetPIN, (CK_SESSION_HANDLE handle, CK_BYTE *old, CK_ULONG old_size, CK_BYTE *new, CK_ULONG new_size),
     (handle, old, old_size, new, new_size), (session->real, old, old_size, new, new_size))
PASS(C_SetOperationState,
     (CK_SESSION_HANDLE handle, CK_BYTE *in, CK_ULONG size, CK_OBJECT_HANDLE encryption, CK_OBJECT_HANDLE signing),
     (handle, in, size, encryption, signing),
     (session->real, in, size, object_in(encryption), object_in(signing)))
PASS(C_WrapKey,
     (CK_SESSION_HANDLE handle, CK_MECHANISM *mechanism, CK_OBJECT_HANDLE with, CK_OBJECT_HANDLE key, CK_BYTE *out,
      CK_ULONG *length),
     (handle, mechanism, with, key, out, length),
     (session->real, mechanism, object_in(with), object_in(key), out, length))

ENTRY(C_GenerateKey,
      (CK_SESSION_HANDLE handle, CK_MECHANISM *mechanism, CK_ATTRIBUTE *template, CK_ULONG count,
       CK_OBJECT_HANDLE *key),
      (handle, mechanism, template, count, key)) {
  SESSION(handle)
  CHECK(real->C_GenerateKey(session->real, mechanism, template, count, key));
  *key = object_out(*key);
  return CKR_OK;
}

ENTRY(C_GenerateKeyPair,
      (CK_SESSION_HANDLE handle, CK_MECHANISM *mechanism, CK_ATTRIBUTE *for_public, CK_ULONG public_count,
       CK_ATTRIBUTE *for_private, CK_ULONG private_count, CK_OBJECT_HANDLE *public, CK_OBJECT_HANDLE *private),
      (handle, mechanism, for_public, public_count, for_private, private_count, public, private)) {
  SESSION(handle)
  CHECK(real->C_GenerateKeyPair(session->real, mechanism, for_public, public_count, for_private, private_count, public,
                                private));
  *public = object_out(*public);
  *private = object_out(*private);
  return CKR_OK;
}

ENTRY(C_UnwrapKey,
      (CK_SESSION_HANDLE handle, CK_MECHANISM *mechanism, CK_OBJECT_HANDLE with, CK_BYTE *in, CK_ULONG size,
       CK_ATTRIBUTE *template, CK_ULONG count, CK_OBJECT_HANDLE *key),
      (handle, mechanism, with, in, size, template, count, key)) {
  SESSION(handle)
  CHECK(real->C_UnwrapKey(session->real, mechanism, object_in(with), in, size, template, count, key));
  *key = object_out(*key);
  return CKR_OK;
}

ENTRY(C_DeriveKey,
      (CK_SESSION_HANDLE handle, CK_MECHANISM *mechanism, CK_OBJECT_HANDLE from, CK_ATTRIBUTE *template, CK_ULONG count,
       CK_OBJECT_HANDLE *key),
      (handle, mechanism, from, template, count, key)) {
  SESSION(handle)
  CHECK(real->C_DeriveKey(session->real, mechanism, object_in(from), template, count, key));
  *key = object_out(*key);
  return CKR_OK;
}

/* --- Loading --- */

static CK_RV entry_C_GetFunctionList(CK_FUNCTION_LIST **list);

static CK_FUNCTION_LIST functions = {
    .version = {CRYPTOKI_VERSION_MAJOR, CRYPTOKI_VERSION_MINOR},
#define FUNCTION(name) .name = entry_##name,
    FUNCTIONS(FUNCTION)
#undef FUNCTION
};

/* A child of fork() has one thread, which may find locks that others held. */
static void begin_in_child(void) {
  pthread_mutex_init(&reading, NULL);
  pthread_mutex_init(&counting, NULL);
  pthread_mutex_init(&table, NULL);
  gate = (pthread_rwlock_t)PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP;
  for (size_t number = 0; number <= FUNCTION_COUNT; number++) inside[number] = 0;
}

static void find_files(void) {
  Dl_info own;
  char *file = dladdr(&functions, &own) ? realpath(own.dli_fname, NULL) : NULL;
  if (!file) give_up("no file", "this library");
  *strrchr(file, '/') = 0;
  snprintf(control_path, sizeof control_path, "%s/control", file);
  snprintf(state_path, sizeof state_path, "%s/state", file);
  snprintf(softhsm_path, sizeof softhsm_path, "%s/softhsm.so", file);
  free(file);
}

static void share_state(void) {
  int file = open(state_path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (file < 0 || ftruncate(file, sizeof *state)) give_up("no state", state_path);
  state = mmap(NULL, sizeof *state, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (state == MAP_FAILED) give_up("no memory", state_path);
  close(file);
}

static void load(void) {
  find_files();
  share_state();
  void *library = dlopen(softhsm_path, RTLD_NOW | RTLD_LOCAL);
  CK_C_GetFunctionList get = library ? (CK_C_GetFunctionList)dlsym(library, "C_GetFunctionList") : NULL;
  if (!get) give_up("SoftHSM can not be loaded", dlerror());
  if (get(&real) != CKR_OK) give_up("SoftHSM does not give its functions", softhsm_path);
  pthread_atfork(NULL, NULL, begin_in_child);
}

static CK_RV entry_C_GetFunctionList(CK_FUNCTION_LIST **list) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, load);
  if (!list) return CKR_ARGUMENTS_BAD;
  state->calls[N_C_GetFunctionList]++;
  *list = &functions;
  return CKR_OK;
}

__attribute__((visibility("default"))) CK_RV C_GetFunctionList(CK_FUNCTION_LIST **list) {
  return entry_C_GetFunctionList(list);
}
