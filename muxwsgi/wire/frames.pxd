# The compiled half of frames.py: see docs/compiled.md.

cdef extern from *:
    """
    /* One block is what CPython takes for the first frames of a thread or greenlet (DATA_STACK_CHUNK_SIZE); those for objects are larger. */
    enum { BLOCK = 16 * 1024, MOST = 64 };

    static PyObjectArenaAllocator below;
    static void *kept[MOST];
    static int kept_count = 0;

    /* Python calls with its lock held, but each subinterpreter has its own. Nobody waits: where the lock is taken, no block is kept. */
    static char taken = 0;
    #define TAKE() (!__atomic_test_and_set(&taken, __ATOMIC_ACQUIRE))
    #define LEAVE() __atomic_clear(&taken, __ATOMIC_RELEASE)

    static void *allocate_block(void *context, size_t size)
    {
        void *block = NULL;
        if (size == BLOCK && TAKE()) {
            if (kept_count) {
                block = kept[--kept_count];
            }
            LEAVE();
        }
        return block ? block : below.alloc(below.ctx, size);
    }

    static void free_block(void *context, void *block, size_t size)
    {
        if (size == BLOCK && TAKE()) {
            int is_kept = kept_count < MOST;
            if (is_kept) {
                kept[kept_count++] = block;
            }
            LEAVE();
            if (is_kept) {
                return;
            }
        }
        below.free(below.ctx, block, size);
    }

    static void keep_blocks(void)
    {
        PyObjectArenaAllocator ours = {NULL, allocate_block, free_block};
        if (below.alloc == NULL) {
            PyObject_GetArenaAllocator(&below);
            PyObject_SetArenaAllocator(&ours);
        }
    }
    """
    void keep_blocks()


cdef inline _keep_frames():
    keep_blocks()
